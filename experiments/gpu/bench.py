"""The rows of the GPU benchmark: `experiments.benchmark_rows`, in the order of what a decision needs first."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from experiments.benchmark_rows import CASES, Case
from experiments.gpu.jobs import Job

# The paper's experiment, and what it is compared with.
MAIN = Case("omniglot_20w1s_16_tasks", way=20, tasks=16)
_SMALL = Case("tiny", way=2, size=16, filters=2, tasks=2, steps=1)
_KINDS = ("grouped",)
_VALIDATION_TASKS = 600
_LIMIT = 240.0
# As many outer steps per call as a run makes would cost time here and change nothing.
_DISPATCH = 10
_MODULE = "experiments.gpu.bench"


def bench_jobs(tiny: bool) -> list[Job]:
    """Every row; the most telling first, since time may run out."""
    main = _SMALL if tiny else MAIN
    jobs = [Job("machine", f"{_MODULE}:machine", {"size": 512 if tiny else 16384})]
    jobs += [*_compared(main, (2,)), *_convolutions(main)]
    # The rest of what the paper's schedule is made of.
    for order, multi_step in ((1, True), (1, False), (2, False)):
        loss = "multi-step" if multi_step else "last-step"
        jobs.append(_row("schedule", main, f"order {order}, {loss}", order, multi_step=multi_step))
    for chunk in [chunk for chunk in (8, 4, 2, 1) if chunk < main.tasks]:
        jobs.append(_row("chunks", main, f"{chunk}", compute__tasks_per_chunk=chunk))
    jobs += [
        _row("chunks", main, "1, direct", model__conv="direct", compute__tasks_per_chunk=1),
        _row("precision", main, "float32", precision="highest"),
        _row("precision", main, "bfloat16", model__dtype="bfloat16"),
        _row("dispatch", main, "1", compute__steps_per_dispatch=1),
        _row("dispatch", main, "50", compute__steps_per_dispatch=50),
        _row("unrolled", main, "1", unrolled=1),
        _row("memory", main, "remat", compute__remat=True),
        Job(
            f"bench/evaluation/{main.name}",
            f"{_MODULE}:evaluation",
            {"case": dataclasses.asdict(main), "tasks": 2 if tiny else _VALIDATION_TASKS},
            _LIMIT,
        ),
    ]
    if tiny:  # the first of each section
        sections = {job.arguments.get("section", job.name): job for job in reversed(jobs)}
        return [job for job in jobs if job in sections.values()]
    for case in (CASES["omniglot_5w1s"], CASES["mini_imagenet_5w1s"]):
        jobs += [*_compared(case, (2, 1)), *_convolutions(case)]
    return jobs + _pytorch(main, 1)


def _compared(case: Case, orders: tuple[int, ...]) -> list[Job]:
    jobs = []
    for order in orders:
        jobs += [_row("implementations", case, f"ours, order {order}", order)]
        jobs += _pytorch(case, order)
    naive = _row(
        "implementations",
        case,
        "naive vmap",
        model__conv="xla",
        compute__tasks_per_chunk=case.tasks,
        implementation="naive_vmap",
    )
    return [*jobs, naive]


def _pytorch(case: Case, order: int) -> list[Job]:
    if importlib.util.find_spec("torch") is None:
        return []
    name = f"bench/implementations/{case.name}/pytorch, order {order}"
    arguments = {"case": dataclasses.asdict(case), "order": order}
    return [Job(name, f"{_MODULE}:pytorch_row", arguments, 2 * _LIMIT)]


def _convolutions(case: Case) -> list[Job]:
    return [
        _row("conv", case, kind, model__conv=kind, compute__tasks_per_chunk=case.tasks)
        for kind in _KINDS
    ]


def _row(section: str, case: Case, what: str, order: int = 2, **arguments: Any) -> Job:
    arguments = {"compute__steps_per_dispatch": _DISPATCH, **arguments}
    return Job(
        f"bench/{section}/{case.name}/{what}",
        f"{_MODULE}:row",
        {"section": section, "case": dataclasses.asdict(case), "order": order, **arguments},
        _LIMIT,
    )


def row(
    section: str,
    case: dict[str, Any],
    *,
    implementation: str = "ours",
    precision: str = "",
    unrolled: int = 0,
    **arguments: Any,
) -> dict[str, Any]:
    """Measures one row of ours.

    Args:
        section: of the report.
        case: the fields of a `Case`.
        implementation: what the row is called.
        precision: of float32 products (`jax.default_matmul_precision`); "" for the default.
        unrolled: inner steps per iteration of the scan; 0 for the default.
        **arguments: of `benchmark_rows.ours`.
    """
    import jax

    from experiments import benchmark_rows
    from mamlpp_jax.algorithms import inner_loop

    usual = inner_loop._UNROLLED
    before = _peak_bytes()
    try:
        if unrolled:
            inner_loop._UNROLLED = unrolled
        with jax.default_matmul_precision(precision or None):
            found = benchmark_rows.ours(section, Case(**case), **arguments)
    finally:
        inner_loop._UNROLLED = usual
    found.implementation = implementation
    found.precision = precision or "default"
    found.note = f"{unrolled} inner step(s) per iteration" if unrolled else ""
    # A process has one high-water mark: it says something of this row where the row raised it.
    after = _peak_bytes()
    found.device_mib = round(after / 2**20, 1) if after > before else None
    return {"device": jax.devices()[0].device_kind, "row": dataclasses.asdict(found)}


def _peak_bytes() -> int:
    """The most device memory that this process has held at a time; 0 where the back end does not say."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def pytorch_row(case: dict[str, Any], order: int) -> dict[str, Any]:
    """Measures PyTorch, in a process of its own.

    Raises:
        RuntimeError: it failed or took too long.
    """
    import jax

    from experiments import benchmark_rows

    found = benchmark_rows.pytorch(Case(**case), order)
    if found is None:
        raise RuntimeError("experiments/pytorch_mamlpp.py failed or took too long")
    return {"device": jax.devices()[0].device_kind, "row": dataclasses.asdict(found)}


def evaluation(case: dict[str, Any], tasks: int) -> dict[str, Any]:
    """Measures a validation: the last inner step, one statistics mode."""
    import jax

    from experiments.benchmark_costs import evaluation_row

    found = evaluation_row(Case(**case), tasks, ["batch"])
    return {"device": jax.devices()[0].device_kind, "row": dataclasses.asdict(found)}


def machine(size: int) -> dict[str, Any]:
    """What rows are judged by: the device, its fastest matrix product and its memory.

    Args:
        size: height and width of the largest matrix.
    """
    import jax
    import jax.numpy as jnp

    from experiments import benchmark_rows as rows
    from mamlpp_jax.artifacts.provenance import provenance

    peak = rows.measure_peak_gflops(size)
    x = jax.random.normal(jax.random.key(0), (size, size // 4), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    times = rows.time_calls(lambda: copy(x).block_until_ready())
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        **provenance(1),
        "device": jax.devices()[0].device_kind,
        "peak_gflops": round(peak),
        "copy_gb_per_s": round(2 * x.nbytes / min(times) / 1e6, 1),
        "memory_gib": round(stats.get("bytes_limit", 0) / 2**30, 1),
    }
