"""Times the outer step and writes `benchmark.md`, `benchmark.png` and `benchmark.json`.

    python -m experiments.benchmark --cases=omniglot_5w1s,omniglot_20w1s,mini_imagenet_5w1s --output=DIR
    python -m experiments.benchmark --vary=model.conv=direct,patches,xla --vary=tasks=2,4,8,16 --output=DIR
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
from experiments.command_line import parse_value, run_main
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.config import check_field
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.checkpoints import quiet_orbax

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


def _anil(cases: list[Case]) -> Iterator[Row]:
    """The outer steps of MAML and ANIL, in turns."""
    compiled = [compiled_row("anil", cases[0], method=name) for name in ("maml", "anil")]
    times = time_in_turns([step.call for _, step in compiled], _TURNS)
    for (row, _), milliseconds in zip(compiled, times, strict=True):
        row.set_times(milliseconds)
        yield row


def _gpu(cases: list[Case]) -> Iterator[Row]:
    """The forms of convolutions that suit a GPU. Several compile at a time, which is what takes the time there."""

    def compile_row(case: Case, order: int, conv: str) -> tuple[Row, Compiled]:
        fields = {"model.conv": conv, "compute.steps_per_dispatch": _DISPATCH}
        note = "timed while others compiled"
        return compiled_row("gpu", case, order=order, note=note, fields=fields)

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


def _varied(words: str) -> Section:
    """The section of a flag --vary: a row for each value of a field of the configuration or of the case."""
    field, _, texts = words.partition("=")
    of_case = dataclasses.asdict(CASES["omniglot_5w1s"])
    if field not in of_case:
        check_field(field)
    default = of_case[field] if field in of_case else FIELDS[field].default
    values = [parse_value(text, field, default) for text in texts.split(",")]

    def rows(cases: list[Case]) -> Iterator[Row]:
        for case in cases:
            for value in values:
                if field in of_case:
                    yield ours(field, dataclasses.replace(case, **{field: value}))
                else:
                    yield ours(field, case, note=f"{field}={value}", fields={field: value})

    return rows


_SECTIONS: dict[str, Section] = {
    "implementations": _implementations,
    "table3": _table_3,
    "anil": _anil,
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
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--{flag} has {unknown[0]!r}; choose from {', '.join(known)}.")
    return [known[name] for name in names]


def _define_flags() -> None:
    flags.DEFINE_list("cases", _USUAL_CASES, f"Kinds of task to time, of {', '.join(CASES)}.")
    flags.DEFINE_string("output", "benchmark", "Folder of the report; made if need be.")
    flags.DEFINE_list("sections", None, f"Parts of the report, of {', '.join(_SECTIONS)}.")
    flags.DEFINE_multi_string("vary", [], "FIELD=VALUE,VALUE: a part with a row for each value.")
    flags.DEFINE_integer("rounds", 1, "How often ours and PyTorch take turns.", lower_bound=1)


def _main() -> None:
    given = flags.FLAGS
    varied = [_varied(words) for words in given.vary]
    usual = [] if varied else _USUAL_SECTIONS
    names = usual if given.sections is None else given.sections
    sections = [*_choose("sections", names, _SECTIONS), *varied]
    cases = _choose("cases", given.cases, CASES)
    run_benchmark(cases, sections, pathlib.Path(given.output))


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
