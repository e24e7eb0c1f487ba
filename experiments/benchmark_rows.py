"""One row of the benchmark: a configuration, built as a run builds it, compiled and timed."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mamlpp_jax.config import apply_method, default_config, validate
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.training.compiled import compiled_train_steps
from mamlpp_jax.training.experiment import Experiment, build_experiment
from mamlpp_jax.types import StepPlan

BATCH_NORM_BLOCKS = 4
_BUDGET_S, _LEAST_RUNS, _MOST_RUNS = 4.0, 3, 40
_CHILD_LIMIT_S = 150.0
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of task and a network.

    Attributes:
        name: what rows call it.
        way: classes of a task.
        shot: support images per class.
        query: query images per class.
        size: height and width of an image.
        channels: 1 or 3.
        filters: of each block.
        tasks: the meta-batch.
        steps: inner steps.
    """

    name: str
    way: int = 5
    shot: int = 1
    query: int = 1
    size: int = 28
    channels: int = 1
    filters: int = 64
    tasks: int = 8
    steps: int = 5


CASES = {
    case.name: case
    for case in (
        Case("omniglot_5w1s"),
        Case("omniglot_20w1s", way=20),
        Case("mini_imagenet_5w1s", query=15, size=84, channels=3, filters=48, tasks=2),
    )
}


@dataclasses.dataclass
class Row:
    """What `benchmark.json` lists; times in milliseconds unless the name says otherwise.

    Attributes:
        section: the part of the report.
        case: the kind of task.
        implementation: ours, pytorch or naive_vmap.
        method: maml or maml++.
        order: of the derivative, 1 or 2.
        inner_steps: S.
        multi_step: whether every step's query loss counts.
        tasks: the meta-batch.
        way: classes of a task.
        shot: support images per class.
        conv: config.model.conv.
        dtype: config.model.dtype.
        precision: of float32 products (`jax.default_matmul_precision`); "" where it was not set.
        dispatch: outer steps per call.
        devices: how many tasks are sharded over.
        chunk: tasks computed together on a device.
        remat: config.compute.remat.
        ms_median: of one outer step.
        ms_min: of one outer step.
        runs: how many were timed.
        compile_s: tracing and compiling, without a cache.
        cached_s: the same from the persistent compilation cache.
        peak_mib: arguments, results and temporaries, by the compiler's memory analysis.
        device_mib: the most device memory that the process held, by the back end.
        gflop: of the convolutions and the linear layer, counted analytically.
        matmul_share: of the time that this work needs at the measured matrix product peak.
        note: anything else.
    """

    section: str
    case: str
    implementation: str
    method: str
    order: int
    inner_steps: int
    multi_step: bool
    tasks: int
    way: int
    shot: int
    conv: str = ""
    dtype: str = "float32"
    precision: str = ""
    dispatch: int = 1
    devices: int = 1
    chunk: int = 1
    remat: bool = False
    ms_median: float | None = None
    ms_min: float | None = None
    runs: int = 0
    compile_s: float | None = None
    cached_s: float | None = None
    peak_mib: float | None = None
    device_mib: float | None = None
    gflop: float | None = None
    matmul_share: float | None = None
    note: str = ""


def case_row(section: str, case: Case, **fields: Any) -> Row:
    """A row of a case, of first-order MAML++ without the multi-step loss where `fields` (of `Row`) say nothing else."""
    known = {"implementation": "ours", "method": "maml++", "order": 1, "multi_step": False}
    of_case = {"inner_steps": case.steps, "tasks": case.tasks, "way": case.way, "shot": case.shot}
    return Row(section, case.name, **{**known, **of_case, **fields})


def make_config(
    case: Case, method: str = "maml++", fields: dict[str, Any] | None = None
) -> ConfigDict:
    """A configuration of the case; `fields` have names such as "compute.devices"."""
    config = default_config()
    config.experiment = case.name
    config.data.update(name="glyphs", image_size=case.size, rotations=False)
    config.data.update(train_classes=case.way * 2, val_classes=case.way, test_classes=case.way)
    config.task.update(way=case.way, shot=case.shot, query=case.query)
    config.model.filters = case.filters
    config.train.update(tasks_per_step=case.tasks, inner_steps=case.steps)
    apply_method(config, method)
    config.update_from_flattened_dict(fields or {})
    validate(config)
    return config


def random_images(case: Case) -> Dataset:
    """Noise in the shape of the case's data; times do not depend on the pixels."""
    classes, each = case.way * 4, case.shot + case.query
    shape = (classes * each, case.size, case.size, case.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names = tuple(f"class{i:03d}" for i in range(classes))
    return Dataset("glyphs", images, names, np.full(classes, each, np.int32))


@dataclasses.dataclass
class Compiled:
    """A compiled outer step and what it is called with.

    Attributes:
        experiment: what was compiled.
        call: runs the outer steps of one dispatch and returns when they are done.
        steps: how many these are.
        seconds: of tracing and compiling.
        peak_mib: by the compiler's memory analysis.
    """

    experiment: Experiment
    call: Callable[[], None]
    steps: int
    seconds: float
    peak_mib: float


def compile_step(config: ConfigDict, case: Case, order: int, multi_step: bool) -> Compiled:
    """Builds and compiles a configuration's outer steps of one dispatch (one by default), as training does."""
    experiment = build_experiment(config, random_images(case), ["train"])
    state = experiment.first_state()
    steps = config.compute.steps_per_dispatch or 1
    source = experiment.tasks["train"].window(range(steps), range(case.tasks))
    weights = jnp.full(config.train.inner_steps, 1 / config.train.inner_steps, jnp.float32)
    plan = StepPlan(weights, order, multi_step)
    started = time.perf_counter()
    train_step: Any = compiled_train_steps(experiment, steps)
    lowered = train_step.lower(state, source, plan)
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, source, plan)
        jax.block_until_ready((state, metrics))

    return Compiled(experiment, call, steps, seconds, peak / _MIB)


def time_call(call: Callable[[], None]) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def time_calls(call: Callable[[], None]) -> list[float]:
    """Milliseconds of repeated calls, after two that warm up (one where a call takes long)."""
    started = time.perf_counter()
    call()
    if time.perf_counter() - started < _BUDGET_S:
        call()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < 1e3 * _BUDGET_S and len(times) < _MOST_RUNS):
        times.append(time_call(call))
        if times[0] > 4e3 * _BUDGET_S:
            break
    return times


def ours(
    section: str,
    case: Case,
    *,
    method: str = "maml++",
    order: int = 2,
    multi_step: bool | None = None,
    timed: bool = True,
    note: str = "",
    peak_gflops: float | None = None,
    **fields: Any,
) -> Row:
    """Measures this program.

    Args:
        section: the part of the report.
        case: the kind of task.
        method: decides the inner optimizer and the batch-norm rows.
        order: 1 or 2.
        multi_step: whether every step's query loss counts; by default whether the method has MSL.
        timed: False to compile only.
        note: for the row.
        peak_gflops: of a large matrix product, for `matmul_share`.
        **fields: of the configuration, dots written as two underscores.
    """
    row, step = compiled_row(section, case, method, order, multi_step, note, **fields)
    if timed:
        set_times(row, [ms / step.steps for ms in time_calls(step.call)])
        if peak_gflops and row.gflop:
            row.matmul_share = round(row.gflop / peak_gflops / (1e-3 * row.ms_median), 3)  # type: ignore[operator]
    return row


def compiled_row(
    section: str,
    case: Case,
    method: str,
    order: int,
    multi_step: bool | None = None,
    note: str = "",
    **fields: Any,
) -> tuple[Row, Compiled]:
    """A row without times, and the outer step to time; see `ours`."""
    multi_step = method == "maml++" if multi_step is None else multi_step
    config = make_config(case, method, {k.replace("__", "."): v for k, v in fields.items()})
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


def naive_vmap(case: Case, order: int = 2) -> Row | None:
    """The same network as JAX code usually computes it: `vmap` over all tasks and `lax.conv`.

    Returns:
        None where compiling and a few steps do not end within the limit.
    """
    code = (
        "import dataclasses, json; from experiments import benchmark_rows as rows; "
        f"row = rows.ours('implementations', rows.CASES[{case.name!r}], order={order}, "
        f"model__conv='xla', compute__devices=1, compute__tasks_per_chunk={case.tasks}); "
        "print(json.dumps(dataclasses.asdict(row)))"
    )
    output = run_child([sys.executable, "-c", code])
    return None if output is None else Row(**{**output, "implementation": "naive_vmap"})


def pytorch(case: Case, order: int, multi_step: bool = True) -> Row | None:
    """Times `pytorch_mamlpp.py` in a process of its own; None when that takes too long."""
    script = Path(__file__).with_name("pytorch_mamlpp.py")
    flags = {
        **{name: getattr(case, name) for name in ("way", "shot", "query", "tasks", "steps")},
        **{name: getattr(case, name) for name in ("size", "channels", "filters")},
        "order": order,
        "msl": int(multi_step),
        "runs": 8 if case.size < 50 else 4,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
    }
    output = run_child([sys.executable, str(script), *(f"--{k}={v}" for k, v in flags.items())])
    if output is None:
        return None
    return case_row(
        "implementations",
        case,
        implementation="pytorch",
        order=order,
        multi_step=multi_step,
        devices=1,
        chunk=1,
        ms_median=output["ms_median"],
        ms_min=output["ms_min"],
        runs=output["runs"],
        gflop=round(count_gflop(case, order, multi_step), 2),
        note=f"torch {output['torch']}, {output['threads']} threads",
    )


def run_child(
    command: list[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The last line of a child's output, as JSON; None when the child fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_CHILD_LIMIT_S,
            check=True,
            cwd=Path(__file__).resolve().parents[1],
            env=environment,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def set_times(row: Row, times: list[float]) -> None:
    """Puts milliseconds into a row."""
    row.ms_median, row.ms_min = round(statistics.median(times), 2), round(min(times), 2)
    row.runs = len(times)


def count_gflop(case: Case, order: int, multi_step: bool) -> float:
    """Multiplications and additions of convolutions and linear layer in one outer step, in 1e9.

    A layer's forward pass, input gradient and kernel gradient cost the same. The first layer's input is the
    image, so it has no input gradient. Differentiating a support pass with its two gradients once more
    (second order) takes two such products for each of its three, less those of the image.
    """
    support, query = case.way * case.shot, case.way * case.query
    total = 0.0
    for layer, per_image in enumerate(_products(case)):
        first_order, again = (2, 2) if layer == 0 else (3, 6)
        support_products = first_order + (again if order == 2 else 0)
        queries = case.steps if multi_step else 1
        total += per_image * support * support_products * case.steps
        total += per_image * query * first_order * queries
    return total * case.tasks / 1e9


def count_evaluation_gflop(case: Case, tasks: int, modes: Sequence[str]) -> float:
    """As `count_gflop`, of predictions after the last inner step; `support` takes one more support pass."""
    support, query = case.way * case.shot, case.way * case.query
    total = 0.0
    for layer, per_image in enumerate(_products(case)):
        total += (
            per_image * support * ((2 if layer == 0 else 3) * case.steps + ("support" in modes))
        )
        total += per_image * query * len(modes)
    return total * tasks / 1e9


def _products(case: Case) -> list[int]:
    """Multiplications and additions of each layer's forward pass over one image."""
    layers, size, channels = [], case.size, case.channels
    for _ in range(BATCH_NORM_BLOCKS):
        layers.append(2 * size * size * 9 * channels * case.filters)
        size, channels = size // 2, case.filters
    return [*layers, 2 * size * size * channels * case.way]


def measure_peak_gflops(largest: int = 4096) -> float:
    """GFLOP/s of the fastest of a few large float32 matrix products, on all cores or one GPU.

    Args:
        largest: height and width of the largest matrix; on a GPU large ones are faster.
    """
    best = 0.0
    size = 512
    while size <= largest:
        a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
        multiply = jax.jit(jnp.matmul)
        multiply(a, a).block_until_ready()
        for _ in range(5):
            started = time.perf_counter()
            multiply(a, a).block_until_ready()
            best = max(best, 2e-9 * size**3 / (time.perf_counter() - started))
        size *= 2
    return best
