"""The jitted functions of a run: what they take at a time, and how often they are compiled."""

import dataclasses

import numpy as np
import pytest

from mamlpp_jax.training.jitted import (
    jitted_evaluator,
    jitted_train_steps,
    steps_per_dispatch,
)
from mamlpp_jax.training.learner import epoch_plan
from tests.helpers.refusals import compilations
from tests.helpers.small_runs import small_experiment


@pytest.mark.parametrize(
    ("limit", "start", "expected"),
    [(0, 0, 5), (7, 0, 5), (10, 0, 10), (4, 0, 4), (10, 15, 5), (10, 3, 1), (10, 20, 20 // 2)],
)
def test_dispatches_fall_on_the_grid_of_epochs_and_of_the_resumed_step(limit, start, expected):
    fields = {"train.steps_per_epoch": 20, "compute.steps_per_dispatch": limit}
    assert steps_per_dispatch(small_experiment(**fields), start) == expected


@pytest.mark.parametrize(("windows_of", "expected"), [(1, 1), (4, 2), (9, 4), (1000, 5)])
def test_images_on_the_host_limit_a_dispatch(windows_of, expected):
    fields = {"data.device_limit_mib": 0, "train.steps_per_epoch": 20}
    experiment = small_experiment(**fields)
    stream = experiment.tasks["train"]
    stream = dataclasses.replace(stream, batch_bytes=windows_of * stream.host.task_bytes)
    experiment = dataclasses.replace(experiment, tasks={"train": stream})
    assert steps_per_dispatch(experiment, 0) == expected


@pytest.mark.slow
def test_outer_steps_compile_once_per_order_and_kind_of_loss():
    experiment = small_experiment(**{"train.epochs": 4, "train.multi_step_epochs": 3})
    steps, state = jitted_train_steps(experiment, 2), experiment.init_run_state()
    source = experiment.tasks["train"].window(range(2), range(2))
    plans = [epoch_plan(experiment.config, epoch) for epoch in range(4)]
    assert [(p.order, p.multi_step) for p in plans] == [
        (1, True),
        (2, True),
        (2, True),
        (2, False),
    ]
    assert not np.array_equal(plans[1].weights, plans[2].weights)
    compiled = []
    for plan in plans:
        before = compilations()
        state, metrics = steps(state, source, plan)
        compiled.append(compilations() - before)
    assert compiled == [1, 1, 0, 1]
    assert int(state.step) == 8
    assert metrics.loss.shape == (2,)


def test_an_evaluator_takes_the_tasks_and_steps_it_is_made_for():
    experiment = small_experiment()
    state = experiment.init_run_state()
    for every_step, entries in ((True, 3), (False, 1)):
        evaluate = jitted_evaluator(experiment, "val", ["batch"], every_step=every_step)
        predictions = evaluate(state.meta, state.batch_stats, experiment.tasks["val"])["batch"]
        assert predictions.logits.shape == (4, entries, 3, 3)
        assert predictions.labels.shape == (4, 3)


def test_the_statistics_mode_is_the_evaluators_and_not_trainings():
    experiment = small_experiment()
    state = experiment.init_run_state()
    modes = ("batch", "running", "support")
    evaluate = jitted_evaluator(experiment, "val", modes, every_step=False)
    found = evaluate(state.meta, state.batch_stats, experiment.tasks["val"])
    assert len({found[mode].logits.tobytes() for mode in modes}) == 3
