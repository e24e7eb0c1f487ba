"""What a run pays besides its outer steps: compiling, validating and saving."""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from experiments.benchmark_rows import (
    Case,
    Row,
    case_row,
    compile_step,
    count_evaluation_gflop,
    make_config,
    ours,
    random_images,
    set_times,
    time_calls,
)
from mamlpp_jax.config import default_config
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.compiled import compiled_evaluator
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.trainer import MINUTES_BETWEEN_EPOCHS
from mamlpp_jax.types import MetaState

# The paper's experiments, with its meta-batches.
_PAPER = (
    Case("omniglot_5w1s", tasks=16),
    Case("omniglot_20w1s", way=20, tasks=16),
    Case("omniglot_20w5s", way=20, shot=5, tasks=16),
    Case("mini_imagenet_5w1s", query=15, size=84, channels=3, filters=48, tasks=4),
    Case("mini_imagenet_5w5s", shot=5, query=15, size=84, channels=3, filters=48, tasks=2),
)
_FUNCTIONS = ((1, True), (1, False), (2, True), (2, False))
_SAVES = 5
_VALIDATION_TASKS = 600


def compile_times(cases: list[Case], machine: Any) -> Iterator[Row]:
    """Every function of the paper's configurations, cold and from the persistent cache."""
    del machine
    names = {case.name for case in cases} | {"omniglot_20w5s", "mini_imagenet_5w5s"}
    for case in _PAPER:
        if case.name not in names:
            continue
        for order, multi_step in _FUNCTIONS:
            cold, cached, peak = _cold_and_cached(
                lambda case=case, order=order, multi_step=multi_step: _compile_train(
                    case, order, multi_step
                )
            )
            yield _row(case, "compile", order, multi_step, cold, cached, peak, "train")
        cold, cached, _ = _cold_and_cached(lambda case=case: _compile_evaluation(case))
        yield _row(case, "compile", 1, False, cold, cached, None, "evaluation")


def _row(
    case: Case,
    section: str,
    order: int,
    multi_step: bool,
    cold: float,
    cached: float,
    peak: float | None,
    note: str,
) -> Row:
    return case_row(
        section,
        case,
        order=order,
        multi_step=multi_step,
        conv="auto",
        compile_s=round(cold, 2),
        cached_s=round(cached, 2),
        peak_mib=None if peak is None else round(peak, 1),
        note=note,
    )


def _compile_train(case: Case, order: int, multi_step: bool) -> tuple[float, float | None]:
    step = compile_step(make_config(case), case, order, multi_step)
    return step.seconds, step.peak_mib


def _compile_evaluation(case: Case) -> tuple[float, float | None]:
    """An evaluator compiles at its first call; few tasks, so that little of the time is running."""
    tasks = jax.device_count()
    config = make_config(case, fields={"evaluation.tasks": max(tasks, 2)})
    experiment = build_experiment(config, random_images(case), ["val"])
    state = experiment.first_state()
    evaluate = compiled_evaluator(experiment, "val", ["batch"], every_step=False)
    started = time.perf_counter()
    evaluate(state.meta, state.batch_stats, experiment.tasks["val"])
    return time.perf_counter() - started, None


def evaluations(cases: list[Case], machine: Any) -> Iterator[Row]:
    """Validations beside the first-order outer step with the multi-step loss, which they are compared with."""
    for case in cases[:1]:
        yield ours("evaluation", case, order=1, peak_gflops=machine.peak_gflops)
        for modes in (["batch"], ["support"], ["batch", "support"]):
            row = evaluation_row(case, _VALIDATION_TASKS, modes)
            row.matmul_share = round(row.gflop / machine.peak_gflops / (1e-3 * row.ms_median), 3)  # type: ignore[operator]
            yield row


def evaluation_row(case: Case, tasks: int, modes: Sequence[str]) -> Row:
    """Measures predictions after the last inner step, as validation makes them.

    Args:
        case: the kind of task.
        tasks: how many are evaluated; the row's times are of all of them.
        modes: statistics modes, evaluated together.
    """
    config = make_config(case, fields={"evaluation.tasks": tasks})
    experiment = build_experiment(config, random_images(case), ["val"])
    state = experiment.first_state()
    evaluate = compiled_evaluator(experiment, "val", modes, every_step=False)

    def call() -> None:
        jax.block_until_ready(evaluate(state.meta, state.batch_stats, experiment.tasks["val"]))

    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    times = time_calls(call)
    row = case_row(
        "evaluation",
        case,
        tasks=tasks,
        conv=config.model.conv,
        devices=experiment.mesh.size,
        chunk=experiment.tasks_per_chunk,
        compile_s=round(first - 1e-3 * min(times), 2),
        gflop=round(count_evaluation_gflop(case, tasks, modes), 2),
        note=f"validation, {' and '.join(modes)}",
    )
    set_times(row, times)
    return row


def _cold_and_cached(compile_it: Any) -> tuple[float, float, float | None]:
    """Seconds without and with a filled persistent cache; memory of what was compiled."""
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.clear_caches()
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        cold, peak = compile_it()
        jax.clear_caches()
        cached, _ = compile_it()
        jax.config.update("jax_compilation_cache_dir", None)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
    return cold, cached, peak


def checkpoint_cost(cases: list[Case], machine: Any) -> Iterator[Row]:
    """Saving the state of Omniglot 20-way 1-shot, beside the time between saves: also of epochs of a second."""
    del cases, machine
    case = _PAPER[1]
    config = make_config(case)
    step = compile_step(config, case, 2, False)
    step_ms = sum(times := time_calls(step.call)) / len(times)
    state = step.experiment.first_state()
    for epoch_s in (1e-3 * step_ms * config.train.steps_per_epoch, 1.0):
        # As the training loop does it: quick epochs are saved together, the best of them.
        between_s = min(
            max(epoch_s, 60 * MINUTES_BETWEEN_EPOCHS),
            60 * default_config().checkpoint.every_minutes,
        )
        epochs = max(int(between_s / epoch_s), 1)
        blocked_s, save_s = _save_epochs(state, config.evaluation.ensemble, epochs)
        row = _row(case, "checkpoint", 2, False, step.seconds, 0.0, step.peak_mib, "")
        row.cached_s = None
        row.ms_median = round(step_ms, 2)
        row.note = (
            f"epochs of {epoch_s:.0f} s, saved every {between_s:.0f} s: the run waits {1e3 * blocked_s:.0f} ms, all is "
            f"on disk after {1e3 * save_s:.0f} ms, {100 * save_s / between_s:.2f} % of the time even if none of it "
            "overlapped"
        )
        yield row


def _save_epochs(state: MetaState, keep_best: int, epochs: int) -> tuple[float, float]:
    """Seconds that the run waits for and that pass until all is on disk, per save of so many epochs."""
    blocked, total = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(pathlib.Path(folder), keep_best) as checkpoints,
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
