"""Which checkpoints are kept, how they rank, and what comes back from them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax import final_test
from mamlpp_jax.checkpoints import Checkpoints
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.program import build
from tests.small import patterns, small_config


@pytest.fixture(scope="module")
def program():
    return build(small_config(), patterns())


@pytest.fixture(scope="module")
def state(program):
    return program.init_state()


def at(state, step):
    """A state that can be told from those of other steps."""
    bias = {**state.params["linear"], "bias": state.params["linear"]["bias"] + step}
    return state._replace(step=state.step + step, params={**state.params, "linear": bias})


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def save_all(checkpoints, state, accuracies):
    for step, accuracy in accuracies.items():
        checkpoints.save(at(state, step), accuracy)


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ({4: 0.1, 8: 0.2, 12: 0.3, 16: 0.4}, [16, 12, 8]),
        ({4: 0.4, 8: 0.3, 12: 0.2, 16: 0.1}, [4, 8, 12]),
        ({4: 0.5, 8: 0.5, 12: 0.5, 16: 0.5}, [16, 12, 8]),
        ({4: 0.5, 8: 0.9, 12: 0.5, 16: 0.1}, [8, 12, 4]),
        ({4: 0.0, 8: 1.0}, [8, 4]),
    ],
)
def test_best_first_and_ties_to_the_later(tmp_path, state, accuracies, best):
    with Checkpoints(tmp_path, keep_best=3) as checkpoints:
        save_all(checkpoints, state, accuracies)
        assert checkpoints.best_steps() == best
    with Checkpoints(tmp_path, keep_best=3) as checkpoints:
        assert checkpoints.best_steps() == best
        assert checkpoints.latest_step() == max(accuracies)
    assert kept(tmp_path) == sorted({*best, max(accuracies)})


def test_a_save_inside_an_epoch_is_the_latest_and_replaced_by_the_next(tmp_path, state):
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.9, 6: None})
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (6, [4])
        save_all(checkpoints, state, {8: 0.1})
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (8, [4])
    assert kept(tmp_path) == [4, 8]


def test_a_save_before_the_first_epoch_ends_ranks_nothing(tmp_path, program, state):
    with Checkpoints(tmp_path, keep_best=3) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (None, [])
        checkpoints.save(at(state, 1))
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (1, [])
        with pytest.raises(WorkdirError, match="no epoch of this run has been finished"):
            final_test.best_states(program, checkpoints)


def test_what_is_restored_is_what_was_saved(tmp_path, program, state):
    with Checkpoints(tmp_path, keep_best=2) as checkpoints:
        save_all(checkpoints, state, {4: 0.2, 8: 0.1})
        for step in (4, 8):
            restored = checkpoints.restore(step, like=state)
            jax.tree.map(np.testing.assert_array_equal, restored, at(state, step))
            assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(
                lambda leaf: leaf.sharding, state
            )
        best = final_test.best_states(program, checkpoints)
        assert [int(state.step) for state in best] == [4, 8]


def test_a_run_moves_to_more_devices(tmp_path, state):
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        checkpoints.save(at(state, 4), 0.5)
    other = build(small_config(**{"compute.devices": 2}), patterns()).init_state()
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        restored = checkpoints.restore(4, like=other)
    assert len(restored.step.sharding.device_set) == 2
    jax.tree.map(np.testing.assert_array_equal, restored, at(state, 4))


@pytest.mark.parametrize("damage", ["folder", "metadata", "shape"])
def test_a_checkpoint_that_cannot_be_restored_is_named(tmp_path, state, damage):
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        checkpoints.save(at(state, 4), 0.5)
    like, item = state, tmp_path / "checkpoints" / "4" / "default"
    if damage == "folder":
        shutil.rmtree(item)
    elif damage == "metadata":
        (item / "_METADATA").write_text("{")
    else:
        norm = jax.tree.map(lambda leaf: jnp.zeros([size + 1 for size in leaf.shape]), state.norm)
        like = state._replace(norm=norm)
    with (
        Checkpoints(tmp_path, keep_best=1) as checkpoints,
        pytest.raises(WorkdirError, match=r"checkpoints/4 cannot be restored .*remove that folder"),
    ):
        checkpoints.restore(4, like=like)
