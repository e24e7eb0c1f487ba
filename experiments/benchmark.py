"""Times the outer step and writes `benchmark.md`, `benchmark.png` and `benchmark.json`.

    python -m experiments.benchmark --cases=omniglot_5w1s,omniglot_20w1s,mini_imagenet_5w1s --output=DIR
    python -m experiments.benchmark --sections=gpu,implementations --cases=omniglot_20w1s_16_tasks --output=DIR

Every row is built as training builds it, from a configuration. Rows of PyTorch and of the naive `vmap` run in
processes of their own, between our rows, so that they meet the same machine. Machines are noisy: compare
rows of one report, not of two.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
from absl import flags, logging

from experiments import benchmark_costs as costs
from experiments.benchmark_cases import CASES, Case
from experiments.benchmark_children import naive_vmap, pytorch
from experiments.benchmark_predict import predictions
from experiments.benchmark_report import write_report
from experiments.benchmark_rows import (
    Compiled,
    Row,
    compiled_row,
    measure_peak_gflops,
    ours,
    time_calls,
    time_in_turns,
)
from experiments.command_line import run_main
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.checkpoints import quiet_orbax
from mamlpp_jax.utils.arithmetic import largest_divisor

_REMAT_STEPS, _PLAIN_STEPS = 50, 10
_TURNS = 10
# Order of the derivative, and config.model.conv.
_GPU_FORMS = ((2, "grouped"), (2, "xla"), (2, "patches"), (1, "auto"))
# A run makes more outer steps per call, which would cost time in the GPU's rows and change nothing.
_DISPATCH = 10
_COMPILE_AT_ONCE = 3
# Width of the largest matrix product; large ones are faster on a GPU.
_LARGEST_PRODUCT = {"gpu": 16384}

# A part of the report: its rows, of the cases asked for; None for one that could not be measured.
Section = Callable[[list[Case]], Iterator[Row | None]]


def _implementations(cases: list[Case]) -> Iterator[Row | None]:
    for number, case in enumerate(cases):
        for order in (2, 1):
            for _ in range(flags.FLAGS.rounds):
                yield ours("implementations", case, order=order)
                yield pytorch(case, order)
        if number == 0:  # on the larger cases a step takes minutes
            yield naive_vmap(case)


def _table_3(cases: list[Case]) -> Iterator[Row]:
    """Inner steps 1 to 5 of MAML and MAML++; MAML++ with and without the multi-step loss."""
    for steps in range(1, 6):
        case = dataclasses.replace(cases[0], steps=steps)
        for method, multi_step in (("maml", False), ("maml++", True), ("maml++", False)):
            for order in (1, 2):
                yield ours("table 3", case, method=method, order=order, multi_step=multi_step)


def _scaling(cases: list[Case]) -> Iterator[Row]:
    changes: list[dict[str, Any]] = [{"tasks": tasks} for tasks in (2, 4, 8, 16)]
    changes += [{"way": way} for way in (10, 20)] + [{"shot": 5}]
    for change in changes:
        yield ours("scaling", dataclasses.replace(cases[0], **change))


def _convolutions(cases: list[Case]) -> Iterator[Row]:
    for case in cases:
        for conv in ("direct", "patches", "xla"):
            yield ours("conv", case, model__conv=conv)


def _chunks_and_devices(cases: list[Case]) -> Iterator[Row]:
    case = cases[0]
    for devices in sorted({1, largest_divisor(case.tasks, len(jax.devices()))}):
        per_device = case.tasks // devices
        for chunk in sorted({1, 2, 4, 8, per_device}):
            if per_device % chunk == 0:
                yield ours(
                    "chunks and devices",
                    case,
                    compute__devices=devices,
                    compute__tasks_per_chunk=chunk,
                )


def _precision(cases: list[Case]) -> Iterator[Row]:
    for dtype in ("float32", "bfloat16"):
        yield ours("precision", cases[0], model__dtype=dtype)


def _memory(cases: list[Case]) -> Iterator[Row]:
    """Compiled, not run: 20-way 5-shot with many inner steps."""
    del cases
    case = Case("omniglot_20w5s", way=20, shot=5, tasks=2)
    for steps, remat in ((_PLAIN_STEPS, False), (_PLAIN_STEPS, True), (_REMAT_STEPS, True)):
        long = dataclasses.replace(case, steps=steps)
        yield ours("memory", long, timed=False, compute__remat=remat, compute__devices=1)


def _anil(cases: list[Case]) -> Iterator[Row]:
    """The outer steps of MAML and ANIL, in turns."""
    compiled = [compiled_row("anil", cases[0], method=name) for name in ("maml", "anil")]
    times = time_in_turns([step.call for _, step in compiled], _TURNS)
    for (row, _), milliseconds in zip(compiled, times, strict=True):
        row.set_times(milliseconds)
        yield row


def _resnet12(cases: list[Case]) -> Iterator[Row]:
    """Its narrow and its customary form, first order, on a task of images of 84 pixels with 5 queries per class."""
    del cases
    case = dataclasses.replace(
        CASES["mini_imagenet_5w1s"], name="mini_imagenet_5w1s5q", query=5, tasks=1
    )
    for filters in (16, 64):
        wide = dataclasses.replace(case, filters=filters)
        note = f"resnet12, {filters} filters in the first block"
        yield ours("resnet12", wide, method="maml", order=1, note=note, model__name="resnet12")


def _gpu(cases: list[Case]) -> Iterator[Row]:
    """The forms of convolutions that suit a GPU. Several compile at a time, which is what takes the time there."""

    def compile_row(case: Case, order: int, conv: str) -> tuple[Row, Compiled]:
        note = "timed while others compiled"
        options: dict[str, Any] = {"order": order, "note": note, "model__conv": conv}
        return compiled_row("gpu", case, compute__steps_per_dispatch=_DISPATCH, **options)

    with ThreadPoolExecutor(_COMPILE_AT_ONCE) as pool:
        wanted = [(case, *form) for case in cases for form in _GPU_FORMS]
        compiling = {pool.submit(compile_row, *each): each for each in wanted}
        for future in as_completed(compiling):
            if error := future.exception():
                logging.error("%s has no row: %s", compiling[future], error)
                continue
            row, step = future.result()
            row.set_times([ms / step.steps for ms in time_calls(step.call)])
            yield row


_SECTIONS: dict[str, Section] = {
    "implementations": _implementations,
    "table3": _table_3,
    "scaling": _scaling,
    "conv": _convolutions,
    "chunks": _chunks_and_devices,
    "precision": _precision,
    "memory": _memory,
    "anil": _anil,
    "resnet12": _resnet12,
    "evaluation": costs.evaluations,
    "checkpoint": costs.checkpoint_cost,
    "predict": predictions,
    "gpu": _gpu,
}
_USUAL_SECTIONS = [name for name in _SECTIONS if name != "gpu"]
_USUAL_CASES = ["omniglot_5w1s", "omniglot_20w1s", "mini_imagenet_5w1s"]


def run_benchmark(cases: list[Case], sections: list[Section], output: pathlib.Path) -> None:
    """Measures the sections; the report is written again after every row."""
    # A device per core on a CPU; must come before anything else of JAX.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    quiet_orbax()
    origin = provenance(len(jax.devices()))
    peak = measure_peak_gflops(_LARGEST_PRODUCT.get(jax.default_backend(), 4096))
    hardware = {**origin["hardware"], "commit": origin["commit"]}
    rows: list[Row] = []
    output.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for row in section(cases):
            if row is not None:
                row.set_share(peak)
                rows.append(row)
                logging.info("%s", row)
                write_report(output, rows, hardware, peak)
    print((output / "benchmark.md").read_text())


def _choose(flag: str, names: list[str], known: Mapping[str, Any]) -> list[Any]:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        has = f"has {unknown[0]!r}" if unknown else "is empty"
        raise ConfigError(f"--{flag} {has}; choose from {', '.join(known)}.")
    return [known[name] for name in names]


def _define_flags() -> None:
    flags.DEFINE_list("cases", _USUAL_CASES, f"Kinds of task to time, of {', '.join(CASES)}.")
    flags.DEFINE_string("output", "benchmark", "Folder of the report; made if need be.")
    flags.DEFINE_list(
        "sections", _USUAL_SECTIONS, f"Parts of the report, of {', '.join(_SECTIONS)}."
    )
    flags.DEFINE_integer("rounds", 1, "How often ours and PyTorch take turns.", lower_bound=1)


def _main(words: list[str]) -> None:
    del words
    cases = _choose("cases", flags.FLAGS.cases, CASES)
    sections = _choose("sections", flags.FLAGS.sections, _SECTIONS)
    run_benchmark(cases, sections, pathlib.Path(flags.FLAGS.output))


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
