"""The costs of a run besides its outer steps: validating and saving."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax

from experiments.benchmark_cases import CASES, Case, count_evaluation_gflop
from experiments.benchmark_rows import (
    Row,
    case_row,
    compile_step,
    make_config,
    ours,
    random_images,
    time_call,
    time_calls,
)
from mamlpp_jax.config import default_config
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.jitted import jitted_evaluator
from mamlpp_jax.training.trainer import MINUTES_BETWEEN_EPOCHS
from mamlpp_jax.types import MetaState

_PAPER = dataclasses.replace(CASES["omniglot_20w1s"], tasks=16)  # with the paper's meta-batch
_SAVES = 5
_VALIDATION_TASKS = 600


def evaluations(cases: list[Case]) -> Iterator[Row]:
    """Validations beside the first-order outer step with the multi-step loss, which they are compared with."""
    yield ours("evaluation", cases[0], order=1)
    for modes in (["batch"], ["support"], ["batch", "support"]):
        yield evaluation_row(cases[0], _VALIDATION_TASKS, modes)


def evaluation_row(case: Case, tasks: int, modes: Sequence[str]) -> Row:
    """Measures predictions after the last inner step under modes together, as validation makes them, of all tasks."""
    config = make_config(case, fields={"evaluation.tasks": tasks})
    experiment = build_experiment(config, random_images(case), ["val"])
    state, stream = experiment.init_run_state(), experiment.tasks["val"]
    evaluate = jitted_evaluator(experiment, "val", modes, every_step=False)

    def call() -> None:
        jax.block_until_ready(evaluate(state.meta, state.batch_stats, stream))

    first = time_call(call)
    times = time_calls(call)
    row = case_row(
        "evaluation",
        case,
        tasks=tasks,
        conv=config.model.conv,
        devices=experiment.mesh.size,
        chunk=experiment.tasks_per_chunk,
        compile_s=round(1e-3 * (first - min(times)), 2),
        gflop=round(count_evaluation_gflop(case, tasks, modes), 2),
        note=f"validation, {' and '.join(modes)}",
    )
    row.set_times(times)
    return row


def checkpoint_cost(cases: list[Case]) -> Iterator[Row]:
    """Saving the state of Omniglot 20-way 1-shot, beside the time between saves: also of epochs of a second."""
    del cases
    config = make_config(_PAPER)
    step = compile_step(config, _PAPER, 2, False)
    step_ms = sum(times := time_calls(step.call)) / len(times)
    state = step.experiment.init_run_state()
    for epoch_s in (1e-3 * step_ms * config.train.steps_per_epoch, 1.0):
        # As the training loop does it: quick epochs are saved together, the best of them.
        between_s = min(
            max(epoch_s, 60 * MINUTES_BETWEEN_EPOCHS),
            60 * default_config().checkpoint.every_minutes,
        )
        epochs = max(int(between_s / epoch_s), 1)
        blocked_s, save_s = _save_epochs(state, config.evaluation.ensemble, epochs)
        yield case_row(
            "checkpoint",
            _PAPER,
            order=2,
            conv="auto",
            ms_median=round(step_ms, 2),
            compile_s=round(step.seconds, 2),
            peak_mib=round(step.peak_mib, 1),
            note=(
                f"epochs of {epoch_s:.0f} s, saved every {between_s:.0f} s: the run waits {1e3 * blocked_s:.0f} ms, "
                f"all is on disk after {1e3 * save_s:.0f} ms, {100 * save_s / between_s:.2f} % of the time even if "
                "none of it overlapped"
            ),
        )


def _save_epochs(state: MetaState, num_best: int, epochs: int) -> tuple[float, float]:
    """Seconds that the run waits for and that pass until all is on disk, per save of so many epochs."""
    blocked, total = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(pathlib.Path(folder), num_best) as checkpoints,
    ):
        for number in range(_SAVES + 1):
            started = time.perf_counter()
            for epoch in range(number * epochs, (number + 1) * epochs):
                checkpoints.buffer(state._replace(step=state.step + epoch), 0.5 + 1e-4 * epoch)
            checkpoints.save()
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            total.append(time.perf_counter() - started)
    return sum(blocked[1:]) / _SAVES, sum(total[1:]) / _SAVES
