"""One row of the benchmark: a configuration, built as a run builds it, compiled and timed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark_cases import Case, count_gflop
from mamlpp_jax.config import apply_method, default_config, validate
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.training.experiment import Experiment, build_experiment
from mamlpp_jax.training.jitted import jitted_train_steps
from mamlpp_jax.types import StepPlan

_BUDGET_S, _LEAST_RUNS, _MOST_RUNS = 4.0, 3, 40
_MIB = 2**20


@dataclasses.dataclass
class Row:
    """A measurement, as `benchmark.json` lists it."""

    section: str  # part of the report
    case: str  # kind of task
    implementation: str  # ours, pytorch or naive_vmap
    method: str
    order: int  # of the derivative, 1 or 2
    inner_steps: int
    multi_step: bool  # whether every step's query loss counts
    tasks: int  # the meta-batch
    way: int
    shot: int
    conv: str = ""  # config.model.conv
    dtype: str = "float32"  # config.model.dtype
    precision: str = ""  # of float32 products, as JAX was told; "" for its default
    dispatch: int = 1  # outer steps per call
    devices: int = 1  # that tasks are sharded over
    chunk: int = 1  # tasks computed together on a device
    remat: bool = False  # config.compute.remat
    ms_median: float | None = None  # of one outer step
    ms_min: float | None = None  # of one outer step
    runs: int = 0  # that were timed
    compile_s: float | None = None  # tracing and compiling, without a cache
    cached_s: float | None = None  # the same from the persistent compilation cache
    peak_mib: float | None = None  # arguments, results and temporaries, by the compiler's analysis
    device_mib: float | None = None  # the most that the process held on the device, by the back end
    gflop: float | None = None  # of convolutions and linear layer, counted analytically
    matmul_share: float | None = None  # of the time that they need at the fastest matrix product
    note: str = ""

    def set_times(self, milliseconds: Sequence[float]) -> None:
        """Fills in the times of repeated outer steps."""
        self.ms_median = round(statistics.median(milliseconds), 2)
        self.ms_min, self.runs = round(min(milliseconds), 2), len(milliseconds)

    def set_share(self, peak_gflops: float) -> None:
        """Fills in the share of the fastest matrix product, where the row has work and a time."""
        if self.gflop and self.ms_median:
            self.matmul_share = round(self.gflop / peak_gflops / (1e-3 * self.ms_median), 3)


def case_row(section: str, case: Case, **fields: Any) -> Row:
    """Makes a row of a case, of first-order MAML++ without the multi-step loss where `fields` say nothing else."""
    usual = {"implementation": "ours", "method": "maml++", "order": 1, "multi_step": False}
    of_case = {"inner_steps": case.steps, "tasks": case.tasks, "way": case.way, "shot": case.shot}
    return Row(section, case.name, **{**usual, **of_case, **fields})


def make_config(case: Case, method: str = "maml++", fields: Mapping[str, Any] = {}) -> ConfigDict:
    """Makes a configuration of the case; `fields` have names such as "compute.devices"."""
    config = default_config()
    config.experiment = case.name
    config.data.update(name="glyphs", image_size=case.size, rotations=False)
    config.data.update(train_classes=case.way * 2, val_classes=case.way, test_classes=case.way)
    config.task.update(way=case.way, shot=case.shot, query=case.query)
    config.model.filters = case.filters
    config.train.update(tasks_per_step=case.tasks, inner_steps=case.steps)
    apply_method(config, method)
    config.update_from_flattened_dict(dict(fields))
    validate(config)
    return config


def random_images(case: Case) -> Dataset:
    """Makes noise in the shape of the case's data; times do not depend on the pixels."""
    classes, each = case.way * 4, case.shot + case.query
    shape = (classes * each, case.size, case.size, case.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names = tuple(f"class{i:03d}" for i in range(classes))
    return Dataset("glyphs", images, names, np.full(classes, each, np.int32))


@dataclasses.dataclass
class Compiled:
    """A compiled outer step with its arguments."""

    experiment: Experiment  # the configuration and its parts
    # Runs the outer steps of one dispatch and returns when they are done
    call: Callable[[], None]
    steps: int  # outer steps of a call
    seconds: float  # time of tracing and compiling
    peak_mib: float  # memory by the compiler's analysis


def compile_step(config: ConfigDict, case: Case, order: int, multi_step: bool) -> Compiled:
    """Builds and compiles a configuration's outer steps of one dispatch (one by default), as training does."""
    experiment = build_experiment(config, random_images(case), ["train"])
    state = experiment.init_run_state()
    steps = config.compute.steps_per_dispatch or 1
    source = experiment.tasks["train"].window(range(steps), range(case.tasks))
    weights = jnp.full(config.train.inner_steps, 1 / config.train.inner_steps, jnp.float32)
    plan = StepPlan(weights, order, multi_step)
    started = time.perf_counter()
    train_step: Any = jitted_train_steps(experiment, steps)
    compiled = train_step.lower(state, source, plan).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
    peak += memory.temp_size_in_bytes - memory.alias_size_in_bytes

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, source, plan)
        jax.block_until_ready((state, metrics))

    return Compiled(experiment, call, steps, seconds, peak / _MIB)


def time_call(call: Callable[[], None]) -> float:
    """Returns milliseconds of one call."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def time_calls(call: Callable[[], None]) -> list[float]:
    """Returns milliseconds of repeated calls, after two that warm up (one where a call takes long)."""
    if time_call(call) < 1e3 * _BUDGET_S:
        call()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < 1e3 * _BUDGET_S and len(times) < _MOST_RUNS):
        times.append(time_call(call))
        if times[0] > 4e3 * _BUDGET_S:
            break
    return times


def time_in_turns(calls: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Returns milliseconds of each of several calls.

    They take turns, after a round that warms up, so that their ratios hold on a machine that others use too.
    """
    times = [[time_call(call) for call in calls] for _ in range(rounds + 1)][1:]
    return [list(each) for each in zip(*times, strict=True)]


def ours(section: str, case: Case, **options: Any) -> Row:
    """Measures this program; see `compiled_row`."""
    row, step = compiled_row(section, case, **options)
    row.set_times([ms / step.steps for ms in time_calls(step.call)])
    return row


def compiled_row(
    section: str,
    case: Case,
    *,
    method: str = "maml++",
    order: int = 2,
    multi_step: bool | None = None,
    note: str = "",
    fields: Mapping[str, Any] = {},
) -> tuple[Row, Compiled]:
    """Returns a row without times, and the outer step to time.

    `multi_step` says whether every step's query loss counts; by default whether the method has MSL. `fields` are other
    values of the configuration's, by names such as "compute.devices".
    """
    multi_step = method == "maml++" if multi_step is None else multi_step
    config = make_config(case, method, fields)
    step = compile_step(config, case, order, multi_step)
    is_counted = config.model.name == "conv4" and config.inner.adapts == "all"
    row = case_row(
        section,
        case,
        method=method,
        order=order,
        multi_step=multi_step,
        conv=config.model.conv,
        dtype=config.model.dtype,
        dispatch=step.steps,
        devices=step.experiment.mesh.size,
        chunk=step.experiment.tasks_per_chunk,
        remat=config.compute.remat,
        compile_s=round(step.seconds, 2),
        peak_mib=round(step.peak_mib, 1),
        gflop=round(count_gflop(case, order, multi_step), 2) if is_counted else None,
        note=note,
    )
    return row, step


def measure_peak_gflops(largest: int) -> float:
    """Measures GFLOP/s of the fastest float32 product of square matrices, 512 to `largest` (a power of 2) wide."""
    sizes = [2**power for power in range(9, largest.bit_length())]
    return max(map(_product_gflops, sizes))


def _product_gflops(size: int) -> float:
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)

    def product() -> None:
        multiply(a, a).block_until_ready()

    product()
    return 2e-6 * size**3 / min(time_call(product) for _ in range(5))
