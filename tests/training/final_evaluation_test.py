"""The final test: which checkpoints it takes, what it reports, and how results add up over evaluations."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from mamlpp_jax.algorithms.averaging import AverageState
from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.training.checkpoints import CheckpointReader, Checkpoints
from mamlpp_jax.training.final_evaluation import (
    best_states,
    collect_results,
    is_tested,
    run_test,
)
from mamlpp_jax.training.preemption import StoppedError
from tests.helpers.damage import DAMAGES
from tests.helpers.sample_results import RESULT
from tests.helpers.saved_states import at, save_all
from tests.helpers.small_runs import small_config, small_experiment


@pytest.fixture(scope="module")
def experiment():
    return small_experiment(**{"norm.eval_statistics": "batch,support"})


@pytest.fixture(scope="module")
def state(experiment):
    return experiment.init_run_state()


def steps_of(states):
    return [int(state.step) for state in states]


def test_the_best_states_come_best_first(tmp_path, experiment, state):
    like = experiment.state_shapes()
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        save_all(checkpoints, state, {4: 0.2, 8: 0.1, 12: 0.3})
        best = best_states(checkpoints, 2, like)
    assert steps_of(best) == [12, 4]
    jax.tree.map(np.testing.assert_array_equal, best[0], at(state, 12))
    with CheckpointReader(tmp_path) as checkpoints:
        assert steps_of(best_states(checkpoints, 1, like)) == [12]
        assert steps_of(best_states(checkpoints, 9, like)) == [12, 4, 8]


def test_before_an_epoch_is_finished_there_is_nothing_to_test(tmp_path, experiment, state):
    with Checkpoints(tmp_path, num_best=3) as checkpoints:
        checkpoints.save(at(state, 1))
        checkpoints.wait()
        with pytest.raises(WorkdirError, match="no epoch of this run has been finished"):
            best_states(checkpoints, 3, experiment.state_shapes())


def test_processes_that_see_other_checkpoints_test_nothing(experiment, monkeypatch):
    """As one of two processes would, of which the other has a damaged checkpoint."""
    checkpoints = types.SimpleNamespace(best_steps=lambda count: [8, 4][:count])
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils, "process_allgather", lambda own: np.stack([own, own + 1])
    )
    with pytest.raises(ConfigError, match="the choice of the best checkpoints of process"):
        best_states(checkpoints, 2, experiment.state_shapes())


@pytest.mark.parametrize("name", ["bit", "accuracy is no JSON"])
def test_the_next_best_stands_in_for_what_goes_bad_during_a_run(tmp_path, experiment, state, name):
    with Checkpoints(tmp_path, num_best=2) as checkpoints:
        save_all(checkpoints, state, {4: 0.5, 8: 0.4, 12: 0.3})
        checkpoints.wait()
        DAMAGES[name](tmp_path / "checkpoints" / "4")
        assert steps_of(best_states(checkpoints, 2, experiment.state_shapes())) == [8, 12]


def test_the_average_is_tested_where_one_is_kept(experiment, state):
    other = jax.tree.map(lambda leaf: leaf + 0.3, state.meta)
    kept = state._replace(meta=other, opt_state=(state.opt_state, AverageState(1, state.meta)))
    tested = [run_test(experiment, [one])[2].logits for one in (state, kept)]
    np.testing.assert_array_equal(*tested)
    moved = run_test(experiment, [state._replace(meta=other)])[2].logits
    assert not np.array_equal(moved, tested[0])


def test_ensemble_and_best_are_tested_under_every_mode(experiment, state):
    asked = []
    states = [at(state, 4), at(state, 8)]
    results, correct, predictions = run_test(
        experiment, states, data="other", before_each=lambda: asked.append(None)
    )
    assert [(result.eval_statistics, result.model) for result in results] == [
        ("batch", "ensemble"),
        ("batch", "best"),
        ("support", "ensemble"),
        ("support", "best"),
    ]
    for result in results:
        assert (result.way, result.shot, result.query, result.tasks) == (3, 1, 1, 4)
        assert (result.train_statistics, result.inner_steps, result.data) == ("batch", 2, "other")
        assert len(result.accuracy_per_step) == 3
        assert result.epochs == ([1, 3] if result.model == "ensemble" else [1])
        assert result.accuracy == result.accuracy_per_step[-1]
        np.testing.assert_allclose(correct[result.key].correct.mean(), result.accuracy)
    assert len(asked) == 2  # models
    assert predictions.logits.shape == (4, 3, 3, 3)
    assert run_test(experiment, states[:1])[0][0].conditions == {
        **results[0].conditions,
        "data": "",
    }


def test_a_test_may_be_left(experiment, state):
    def leave():
        raise StoppedError

    with pytest.raises(StoppedError):
        run_test(experiment, [state], before_each=leave)


class Results:
    """The results of one run, as tests are added to them."""

    def __init__(self, config):
        self.config, self.stored = config, None

    def collect(self, state, steps, *tests, **options):
        states = [at(state, step) for step in steps]
        self.stored = collect_results(
            self.config, self.stored, states, tests, steps=max(steps), devices=1, **options
        )
        return self.stored


def test_tests_under_other_conditions_are_kept_once_the_run_is_finished(state):
    """An evaluation of an unfinished run tests another model than the finished run has."""
    results = Results(small_config())
    five = dataclasses.replace(RESULT, shot=5)
    better, best = (dataclasses.replace(RESULT, accuracy=accuracy) for accuracy in (0.8, 0.9))
    first = results.collect(state, [2], five)
    assert (first["best_epochs"], first["finished"]) == ([0], False)
    finished = results.collect(state, [6, 2], better)
    assert (finished["best_epochs"], finished["steps"], finished["finished"]) == ([2, 0], 6, True)
    assert finished["test"] == [better]
    assert results.collect(state, [6, 2], five)["test"] == [better, five]
    again = results.collect(state, [6, 2], best)
    assert again["test"] == [five, best]
    assert {**again, "test": None} == {**finished, "test": None}


def test_a_run_was_made_where_its_own_test_was(state):
    """Also where it was evaluated elsewhere between its last checkpoint and its test."""
    results = Results(small_config())
    five = dataclasses.replace(RESULT, shot=5)
    results.collect(state, [6], five, RESULT)
    results.stored |= {"commit": "elsewhere", "best_epochs": [2]}
    better = dataclasses.replace(RESULT, accuracy=0.9)
    found = results.collect(state, [6, 2], better, of_training=True)
    assert (found["best_epochs"], found["test"]) == ([2, 0], [five, better])
    assert found["commit"] != "elsewhere"


def test_a_run_is_tested_when_every_mode_it_asks_for_is(state):
    config = small_config(**{"norm.eval_statistics": "batch,support"})
    support = dataclasses.replace(RESULT, eval_statistics="support")
    tested = Results(config).collect(state, [6], RESULT, support)
    assert is_tested(tested, config)
    assert is_tested(tested, small_config(**{"norm.eval_statistics": "support"}))
    assert not is_tested(tested, small_config(**{"norm.eval_statistics": "running"}))
    assert not is_tested({**tested, "finished": False}, config)
    assert not is_tested(None, config)
    elsewhere = [dataclasses.replace(test, data="birds") for test in tested["test"]]
    assert not is_tested({**tested, "test": elsewhere}, config)
