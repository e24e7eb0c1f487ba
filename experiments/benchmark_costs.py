"""What a run pays besides its outer steps: compiling and saving."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmark_rows import (
    Case,
    Row,
    compile_step,
    make_config,
    random_images,
    time_calls,
)
from mamlpp_jax.checkpoints import Checkpoints
from mamlpp_jax.config import default_config
from mamlpp_jax.program import build
from mamlpp_jax.train import make_evaluators

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
    return Row(
        section=section,
        case=case.name,
        implementation="ours",
        method="maml++",
        order=order,
        inner_steps=case.steps,
        multi_step=multi_step,
        tasks=case.tasks,
        way=case.way,
        shot=case.shot,
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
    program = build(config, random_images(case), ["val"])
    state = program.init_state()
    (evaluate,) = make_evaluators(program).values()
    started = time.perf_counter()
    evaluate(state.meta, state.batch_stats, program.sources["val"])
    return time.perf_counter() - started, None


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
    """Saving the state of Omniglot 20-way 1-shot, beside the time between saves."""
    del cases, machine
    case = dataclasses.replace(_PAPER[1])
    config = make_config(case)
    step = compile_step(config, case, 2, False)
    step_ms = sum(times := time_calls(step.call)) / len(times)
    state = step.program.init_state()
    blocking, total = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(pathlib.Path(folder), config.evaluation.ensemble) as checkpoints,
    ):
        for number in range(_SAVES + 1):
            started = time.perf_counter()
            checkpoints.hold(state._replace(step=state.step + number), 0.5 + 0.01 * number)
            checkpoints.save()
            blocking.append(time.perf_counter() - started)
            checkpoints.best_steps()  # waits until everything is on disk
            total.append(time.perf_counter() - started)
    save_s = sum(total[1:]) / _SAVES
    epoch_s = 1e-3 * step_ms * config.train.steps_per_epoch
    between_s = min(epoch_s, 60 * default_config().checkpoint.every_minutes)
    row = _row(case, "checkpoint", 2, False, step.seconds, 0.0, step.peak_mib, "")
    row.cached_s = None
    row.ms_median = round(step_ms, 2)
    row.note = (
        f"a save blocks {1e3 * sum(blocking[1:]) / _SAVES:.0f} ms and is on disk after "
        f"{1e3 * save_s:.0f} ms; with {between_s:.0f} s between saves that is "
        f"{100 * save_s / between_s:.2f} % of the time even if none of it overlapped"
    )
    yield row
