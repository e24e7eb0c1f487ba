"""`report.md`: what the jobs found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmark_report import Report, write_report
from experiments.benchmark_rows import Row
from experiments.gpu.bench import MAIN
from mamlpp_jax.utils.files import write_atomically

Records = Mapping[str, Mapping[str, Any]]
# Outer steps of the paper's schedule: (order, multi-step) -> how many of 75,000.
_SCHEDULE = {(1, True): 5_000, (1, False): 20_000, (2, False): 50_000}
_VALIDATIONS = 150


def write_gpu_report(checks: Records, bench: Records, output: Path) -> None:
    """Writes `report.md`, and with benchmark rows `benchmark.md`, `.json` and `.png`.

    Args:
        checks: records of the parity and convolution jobs, by name.
        bench: records of the benchmark's jobs.
        output: the folder.
    """
    machine = dict(bench.get("machine", {}).get("result", {}))
    hardware = machine.get("hardware", {})
    rows = [Row(**r["result"]["row"]) for r in bench.values() if "row" in r.get("result", {})]
    for row in rows:
        if row.gflop and row.ms_median and machine.get("peak_gflops"):
            row.matmul_share = round(row.gflop / machine["peak_gflops"] / (1e-3 * row.ms_median), 3)
    parts = [
        "# GPU report",
        _machine(machine, hardware),
        *_warnings([*checks.values(), *bench.values()]),
        "## Parity in float64",
        _parity(checks),
        "## Convolutions, second derivatives with a kernel per task",
        _convolutions(checks),
        "## Benchmark",
        _benchmark(rows),
        *_failures({**checks, **bench}),
    ]
    write_atomically(output / "report.md", ("\n\n".join(parts) + "\n").encode())
    if rows:
        write_report(Report(hardware, machine.get("peak_gflops", 0), rows), output)


def _machine(machine: Mapping[str, Any], hardware: Mapping[str, Any]) -> str:
    if not machine:
        return "The machine has not been measured."
    about = ", ".join(f"{name} {value}" for name, value in hardware.items())
    return (
        f"Commit {machine['commit']}. Hardware: {about}. Fastest float32 matrix product by the default precision "
        f"{machine['peak_gflops'] / 1e3:,.1f} TFLOP/s, copy {machine['copy_gb_per_s']:,.0f} GB/s read and written, "
        f"device memory for JAX {machine['memory_gib']} GiB."
    )


def _warnings(records: list[Mapping[str, Any]]) -> list[str]:
    devices = {r["result"]["device"] for r in records if "device" in r.get("result", {})}
    if len(devices) < 2:
        return []
    return [f"**Measured on several devices: {', '.join(sorted(devices))}. Compare none of it.**"]


def _parity(checks: Records) -> str:
    found = {name: r["status"] for name, r in checks.items() if name.startswith("parity/")}
    good = sum(status == "ok" for status in found.values())
    bad = [f"{name}: {status}" for name, status in found.items() if status != "ok"]
    return f"{good} of {len(found)} agree with the authors' implementation" + (
        f"; not: {', '.join(bad)}." if bad else "."
    )


def _convolutions(checks: Records) -> str:
    """A line per way of computing: how many cases are right, and its largest errors."""
    lines = ["| conv | right | largest errors |", "|---|---|---|"]
    names = [name.split("/") for name in checks if name.startswith("conv/")]
    for kind in dict.fromkeys(name[1] for name in names):
        records = [r for name, r in checks.items() if name.startswith(f"conv/{kind}/")]
        good = [r["result"]["errors"] for r in records if r["status"] == "ok"]
        worst = {key: max(errors[key] for errors in good) for key in (good[0] if good else ())}
        text = ", ".join(f"{key}: {value:.1e}" for key, value in worst.items())
        lines.append(f"| {kind} | {len(good)} of {len(records)} | {text} |")
    return "\n".join(lines)


def _benchmark(rows: list[Row]) -> str:
    if not rows:
        return "Not run."
    lines = ["All rows: `benchmark.md`."]
    for section in dict.fromkeys(row.section for row in rows):
        for case in dict.fromkeys(row.case for row in rows if row.section == section):
            here = [r for r in rows if (r.section, r.case) == (section, case) and r.ms_median]
            if here:
                lines.append(f"{section}, {case}: {'; '.join(map(_short, here))}.")
    return "\n".join(f"- {line}" for line in [*lines, *_projection(rows)])


def _short(row: Row) -> str:
    loss = "multi-step" if row.multi_step else "last-step"
    about = [row.implementation, f"order {row.order}", loss]
    if row.implementation == "ours":
        about += [row.conv, f"{row.chunk} at a time", row.dtype, row.precision]
        about += [f"{row.dispatch} per call", "remat" if row.remat else "", row.note]
    memory = f", {row.peak_mib:,.0f} MiB" if row.peak_mib else ""
    return f"{row.ms_median:,.1f} ms{memory} ({', '.join(filter(None, about))})"


def _projection(rows: list[Row]) -> list[str]:
    """How long the paper's experiment takes at these speeds, with the defaults."""
    steps = {
        (row.order, row.multi_step): row.ms_median
        for row in rows
        if row.section == "schedule" and row.case == MAIN.name
    }
    validation = next((r.ms_median for r in rows if r.section == "evaluation"), None)
    if not (set(_SCHEDULE) <= steps.keys() and validation):
        return []
    seconds = 1e-3 * sum(count * (steps[kind] or 0.0) for kind, count in _SCHEDULE.items())
    validating = 1e-3 * _VALIDATIONS * validation
    return [
        f"The paper's 75,000 outer steps with these settings: {seconds / 60:,.1f} minutes "
        f"({1e3 * seconds / sum(_SCHEDULE.values()):.1f} ms per step), and {validating / 60:,.1f} minutes of "
        "validation."
    ]


def _failures(records: Records) -> list[str]:
    bad = [(name, r) for name, r in records.items() if r["status"] != "ok"]
    if not bad:
        return []
    lines = [f"- `{name}`: {r['status']} after {r['seconds']} s. {_line(r)}" for name, r in bad]
    return ["## What did not work", "\n".join(lines)]


def _line(record: Mapping[str, Any]) -> str:
    return " ".join(str(record.get("error", "")).split())[:300]
