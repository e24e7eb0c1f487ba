"""Which checkpoints are kept, how they rank, and what comes back from them."""

import errno
import json
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training import checkpoint_integrity
from mamlpp_jax.training.checkpoints import CheckpointReader, Checkpoints, quiet_orbax
from tests.helpers.damage import DAMAGES, contents, flip_a_bit
from tests.helpers.saved_states import at, save_all, saved_steps
from tests.helpers.small_runs import small_config, small_experiment


@pytest.fixture(scope="module")
def state():
    return small_experiment().init_run_state()


@pytest.fixture(scope="module")
def shapes():
    return small_experiment().state_shapes()


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


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
    with Checkpoints(tmp_path, num_best=3) as checkpoints:
        save_all(checkpoints, state, accuracies)
        assert checkpoints.best_steps() == best
    with Checkpoints(tmp_path, num_best=3) as checkpoints:
        assert checkpoints.best_steps() == best
        assert checkpoints.latest_step() == max(accuracies)
    expected = sorted({*best, *sorted(accuracies)[-2:]})
    assert saved_steps(tmp_path) == expected
    with CheckpointReader(tmp_path) as checkpoints:
        assert checkpoints.best_steps(3) == best
        assert checkpoints.best_steps(1) == best[:1]
        assert (checkpoints.steps(), checkpoints.latest_step()) == (expected, max(accuracies))


def test_a_save_inside_an_epoch_is_the_latest_and_replaced_by_the_next(tmp_path, state):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.9, 6: None})
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (6, [4])
        save_all(checkpoints, state, {8: 0.1})
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (8, [4])
    assert saved_steps(tmp_path) == [4, 6, 8]
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {10: None})
    assert saved_steps(tmp_path) == [4, 8, 10]


def test_a_save_before_the_first_epoch_ends_ranks_nothing(tmp_path, state):
    with Checkpoints(tmp_path, num_best=3) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (None, [])
        checkpoints.save(at(state, 1))
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (1, [])


@pytest.mark.parametrize("like", ["state", "shapes"])
def test_what_is_restored_is_what_was_saved(tmp_path, state, like, request):
    like = request.getfixturevalue(like)
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        save_all(checkpoints, state, {4: 0.2, 8: 0.1})
        for step in (4, 8):
            restored = checkpoints.restore(step, like=like)
            assert_same(restored, at(state, step))
            assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(
                lambda leaf: leaf.sharding, state
            )


def test_a_run_moves_to_more_devices(tmp_path, state):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
    two = small_experiment(**{"compute.devices": 2})
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        restored = checkpoints.restore(4, like=two.state_shapes())
    assert len(restored.step.sharding.device_set) == 2
    assert_same(restored, at(state, 4))


def test_a_state_of_another_shape_is_refused_by_name(tmp_path, state):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
    norm = jax.tree.map(lambda leaf: jnp.zeros([size + 1 for size in leaf.shape]), state.meta.norm)
    like = state._replace(meta=state.meta._replace(norm=norm))
    with (
        Checkpoints(tmp_path, num_best=1) as checkpoints,
        pytest.raises(
            WorkdirError, match=r"checkpoints/4 cannot be restored .*another configuration"
        ),
    ):
        checkpoints.restore(4, like=like)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_quarantined_by_name_and_the_one_before_is_used(
    tmp_path, state, shapes, damage, caplog
):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5, 8: 0.4})
    damage(tmp_path / "checkpoints" / "8")
    with caplog.at_level("WARNING", "absl"), Checkpoints(tmp_path, num_best=1) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert_same(checkpoints.restore(4, like=shapes), at(state, 4))
        save_all(checkpoints, state, {8: 0.6})  # The run comes by again.
        assert checkpoints.best_steps() == [8]
    assert "checkpoints/8 is skipped" in caplog.text
    assert (tmp_path / "damaged" / "8").is_dir()


def test_a_half_written_checkpoint_is_removed_by_name(tmp_path, state, caplog):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
    half = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "4", half)
    (half / "sha256.json").unlink()
    (tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp-0").write_text("a file")
    with caplog.at_level("WARNING", "absl"), Checkpoints(tmp_path, num_best=1) as checkpoints:
        assert checkpoints.latest_step() == 4
        save_all(checkpoints, state, {8: 0.4})
    assert "checkpoints/8.orbax-checkpoint-tmp was only half written" in caplog.text
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "8"]


@pytest.mark.parametrize("stray", ["²", "notes.txt", "-4", "009", "9" * 60])
def test_what_is_no_checkpoint_is_left_alone_or_quarantined(tmp_path, state, stray):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
    (tmp_path / "checkpoints" / stray).mkdir()
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        assert checkpoints.latest_step() == 4
        save_all(checkpoints, state, {8: 0.6})
        assert checkpoints.best_steps() == [8]


def test_a_renamed_checkpoint_is_refused_by_name(tmp_path, state, shapes):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
    (tmp_path / "checkpoints" / "4").rename(tmp_path / "checkpoints" / "6")
    with (
        Checkpoints(tmp_path, num_best=1) as checkpoints,
        pytest.raises(WorkdirError, match=r"checkpoints/6 holds the state after outer step 4"),
    ):
        checkpoints.restore(6, like=shapes)


def test_a_folder_that_vanished_is_named_and_not_made_again(tmp_path, state):
    with Checkpoints(tmp_path / "run", num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
        checkpoints.wait()
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(WorkdirError, match=r"run/checkpoints cannot be saved .*has vanished"):
            save_all(checkpoints, state, {8: 0.6})
    assert not (tmp_path / "run").exists()


def test_buffered_epochs_are_written_with_the_next_save(tmp_path, state, shapes):
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        for step, accuracy in {4: 0.5, 8: 0.1, 12: 0.4, 16: 0.2}.items():
            checkpoints.buffer(at(state, step), accuracy)
        assert checkpoints.has_buffered
        assert checkpoints.latest_step() is None
        checkpoints.save(at(state, 18))
        assert not checkpoints.has_buffered
        assert checkpoints.best_steps() == [4, 12]
    assert saved_steps(tmp_path) == [4, 12, 16, 18]
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        assert_same(checkpoints.restore(12, like=shapes), at(state, 12))
        assert [row["step"] for row in checkpoints.history] == [4, 8, 12]
        checkpoints.restore(18, like=shapes)
        assert [row["step"] for row in checkpoints.history] == [4, 8, 12, 16]


def test_what_is_buffered_may_be_donated(tmp_path, state, shapes):
    given = jax.tree.map(jnp.copy, at(state, 4))
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        checkpoints.buffer(given, 0.5)
        for leaf in jax.tree.leaves(given):
            leaf.delete()
        checkpoints.save()
        assert_same(checkpoints.restore(4, like=shapes), at(state, 4))


@pytest.mark.slow
def test_a_save_during_which_the_clock_jumps_is_made_again(tmp_path, state, monkeypatch, caplog):
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    with caplog.at_level("WARNING", "absl"), Checkpoints(tmp_path, num_best=3) as checkpoints:
        for step in range(1, 6):
            save_all(checkpoints, state, {step: 0.1 * step})
            ahead[0] += 86400
        assert checkpoints.best_steps() == [5, 4, 3]
    assert saved_steps(tmp_path) == [3, 4, 5]
    assert "is written again" in caplog.text


def test_a_damaged_epoch_that_is_not_the_latest_is_missing_by_name(tmp_path, state, caplog):
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5, 8: 0.4, 12: 0.3})
    flip_a_bit(tmp_path / "checkpoints" / "4")
    with caplog.at_level("WARNING", "absl"), Checkpoints(tmp_path, num_best=1) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_steps()) == (12, [8])
    assert "missing among the best epochs" in caplog.text


def test_a_checkpoint_holds_configuration_versions_and_history(tmp_path, state, shapes):
    config = small_config().to_dict()
    with Checkpoints(tmp_path, num_best=1, config=config) as checkpoints:
        save_all(checkpoints, state, {4: 0.5, 8: 0.4})
    for opened in (Checkpoints(tmp_path, num_best=1, config=config), CheckpointReader(tmp_path)):
        with opened as checkpoints:
            assert checkpoints.history == []
            checkpoints.restore(8, like=shapes)
            assert checkpoints.history == [
                {"step": 4, "val_accuracy": 0.5},
                {"step": 8, "val_accuracy": 0.4},
            ]
    about = json.loads((tmp_path / "checkpoints" / "8" / "run" / "metadata").read_text())
    assert about["config"] == config
    assert about["versions"]["jax"] == jax.__version__


def test_a_save_that_fails_names_the_folder_and_keeps_what_was_there(tmp_path, state, monkeypatch):
    def full(checkpoint):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        save_all(checkpoints, state, {4: 0.5})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_integrity, "write_manifest", full)
            save_all(checkpoints, state, {8: 0.6})
            with pytest.raises(WorkdirError, match=r"checkpoints cannot be saved .*No space left"):
                checkpoints.wait()
    with Checkpoints(tmp_path, num_best=1) as checkpoints:
        assert checkpoints.latest_step() == 4


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_reader_changes_nothing_and_leaves_damaged_checkpoints_out(
    tmp_path, state, damage, caplog
):
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        save_all(checkpoints, state, {4: 0.4, 8: 0.5})
    damage(tmp_path / "checkpoints" / "8")
    unfinished = tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_text("of another process")
    before = contents(tmp_path)
    with caplog.at_level("WARNING", "absl"), CheckpointReader(tmp_path) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest_step()) == ([4], 4)
        assert checkpoints.best_steps(2) == [4]
        assert_same(checkpoints.restore(4, like=state), at(state, 4))
    assert "checkpoints/8 is left out" in caplog.text
    assert contents(tmp_path) == before


def test_a_reader_of_nothing_is_refused_and_makes_nothing(tmp_path):
    with pytest.raises(WorkdirError, match="has no checkpoint; train it first"):
        CheckpointReader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_what_follows_from_a_failed_save_is_kept_quiet(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: reported.append(raised.exc_value))
    before = sys.unraisablehook
    errors = [RuntimeError("Event loop is closed"), RuntimeError("bad"), OSError("full")]
    with quiet_orbax():
        hook = sys.unraisablehook
        with quiet_orbax():
            assert sys.unraisablehook is hook
        for error in errors:
            sys.unraisablehook(types.SimpleNamespace(exc_type=type(error), exc_value=error))
    assert reported == errors[1:]
    assert sys.unraisablehook is before
