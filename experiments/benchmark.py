"""Times the outer step and writes `benchmark.md`, `benchmark.png` and `benchmark.json`.

    python -m experiments.benchmark --cases=omniglot_5w1s,omniglot_20w1s,mini_imagenet_5w1s --output=DIR

Every row is built as training builds it, from a configuration. Rows of PyTorch and of the naive `vmap` run in
processes of their own, between our rows, so that they meet the same machine. Machines are noisy: compare
rows of one report, not of two.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import app, flags, logging

from experiments import benchmark_costs as costs, benchmark_family as family
from experiments.benchmark_predict import predictions
from experiments.benchmark_report import Report, write_report
from experiments.benchmark_rows import (
    CASES,
    Case,
    Row,
    measure_peak_gflops,
    naive_vmap,
    ours,
    pytorch,
)
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.checkpoints import quiet_orbax
from mamlpp_jax.utils.arithmetic import largest_divisor

_CASES = flags.DEFINE_list("cases", list(CASES), "Kinds of task to time.")
_OUTPUT = flags.DEFINE_string("output", "benchmark", "Folder of the report; made if need be.")
_SECTIONS = flags.DEFINE_list("sections", [], "Parts of the report to make; all by default.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "How often ours and PyTorch take turns.", lower_bound=1)
_REMAT_STEPS, _PLAIN_STEPS = 50, 10


@dataclasses.dataclass(frozen=True)
class _Machine:
    """What rows are judged by."""

    peak_gflops: float
    has_torch: bool
    devices: int


def _implementations(cases: list[Case], machine: _Machine) -> Iterator[Row | None]:
    for number, case in enumerate(cases):
        for order in (2, 1):
            for _ in range(_ROUNDS.value):
                yield ours("implementations", case, order=order, peak_gflops=machine.peak_gflops)
                if machine.has_torch:
                    yield pytorch(case, order)
        if number == 0:  # On the larger cases a step takes minutes.
            yield naive_vmap(case)


def _table_3(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    """Inner steps 1 to 5 of MAML and MAML++; MAML++ with and without the multi-step loss."""
    for case in cases[:1]:
        for steps in range(1, 6):
            this = dataclasses.replace(case, steps=steps)
            for method, multi_step in (("maml", False), ("maml++", True), ("maml++", False)):
                for order in (1, 2):
                    yield ours(
                        "table 3",
                        this,
                        method=method,
                        order=order,
                        multi_step=multi_step,
                        peak_gflops=machine.peak_gflops,
                    )


def _scaling(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    for case in cases[:1]:
        changes: list[dict[str, Any]] = [{"tasks": tasks} for tasks in (2, 4, 8, 16)]
        changes += [{"way": way} for way in (10, 20)] + [{"shot": 5}]
        for change in changes:
            this = dataclasses.replace(case, **change)
            yield ours("scaling", this, peak_gflops=machine.peak_gflops)


def _convolutions(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    for case in cases:
        for conv in ("direct", "patches", "xla"):
            yield ours("conv", case, peak_gflops=machine.peak_gflops, model__conv=conv)


def _chunks_and_devices(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    for case in cases[:1]:
        for devices in sorted({1, largest_divisor(case.tasks, machine.devices)}):
            per_device = case.tasks // devices
            for chunk in sorted({1, 2, 4, 8, per_device}):
                if per_device % chunk == 0:
                    yield ours(
                        "chunks and devices",
                        case,
                        peak_gflops=machine.peak_gflops,
                        compute__devices=devices,
                        compute__tasks_per_chunk=chunk,
                    )


def _precision(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    for case in cases[:1]:
        for dtype in ("float32", "bfloat16"):
            yield ours("precision", case, peak_gflops=machine.peak_gflops, model__dtype=dtype)


def _memory(cases: list[Case], machine: _Machine) -> Iterator[Row]:
    """Compiled, not run: 20-way 5-shot with many inner steps."""
    del cases, machine
    case = Case("omniglot_20w5s", way=20, shot=5, tasks=2)
    for steps, remat in ((_PLAIN_STEPS, False), (_PLAIN_STEPS, True), (_REMAT_STEPS, True)):
        this = dataclasses.replace(case, steps=steps)
        yield ours("memory", this, timed=False, compute__remat=remat, compute__devices=1)


_SECTIONS_BY_NAME: dict[str, Callable[[list[Case], _Machine], Iterator[Row | None]]] = {
    "implementations": _implementations,
    "table3": _table_3,
    "scaling": _scaling,
    "conv": _convolutions,
    "chunks": _chunks_and_devices,
    "precision": _precision,
    "memory": _memory,
    "anil": family.anil,
    "resnet12": family.resnet12,
    "compile": costs.compile_times,
    "evaluation": costs.evaluations,
    "checkpoint": costs.checkpoint_cost,
    "predict": predictions,
}


def main(argv: list[str]) -> None:
    """Runs the sections asked for; the report is written again after every row."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; flags begin with --")
    cases = [_pick("cases", name, CASES) for name in _CASES.value]
    names = _SECTIONS.value or list(_SECTIONS_BY_NAME)
    sections = [_pick("sections", name, _SECTIONS_BY_NAME) for name in names]
    quiet_orbax()
    machine = _look_around()
    made = provenance(machine.devices)
    hardware = {**made["hardware"], "commit": made["commit"]}
    report = Report(hardware, machine.peak_gflops, [])
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for row in section(cases, machine):
            if row is None:
                continue
            report.rows.append(row)
            logging.info("%s", _one_line(row))
            write_report(report, output)
    print((output / "benchmark.md").read_text())


def _look_around() -> _Machine:
    """One device per core on a CPU; must come before anything else of JAX."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    return _Machine(
        peak_gflops=measure_peak_gflops(),
        has_torch=importlib.util.find_spec("torch") is not None,
        devices=len(jax.devices()),
    )


def _pick(flag: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ConfigError(f"--{flag} has {name!r}; choose from {', '.join(known)}.")
    return known[name]


def _one_line(row: Row) -> str:
    fields = {k: v for k, v in dataclasses.asdict(row).items() if v not in (None, "", 0)}
    return " ".join(f"{k}={v}" for k, v in fields.items())


if __name__ == "__main__":
    app.run(main)
