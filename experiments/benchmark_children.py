"""Rows that are measured in a process of their own, so that they meet the same machine and nothing of this process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark_cases import Case, count_gflop
from experiments.benchmark_rows import Row, case_row

_LIMIT_S = 150.0


def run_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Returns the last line of a child's output, as JSON; None when the child fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LIMIT_S,
            check=True,
            cwd=Path(__file__).resolve().parents[1],
            env=environment,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def naive_vmap(case: Case, order: int = 2) -> Row | None:
    """Measures the same network as JAX code usually computes it: `vmap` over all tasks and `lax.conv`.

    None where compiling and a few steps do not end within the limit.
    """
    fields = {"model.conv": "xla", "compute.devices": 1, "compute.tasks_per_chunk": case.tasks}
    code = (
        "import dataclasses, json; from experiments.benchmark_cases import Case; "
        "from experiments.benchmark_rows import ours; "
        f"row = ours('implementations', {case!r}, order={order}, fields={fields}); "
        "print(json.dumps(dataclasses.asdict(row)))"
    )
    output = run_child([sys.executable, "-c", code])
    return None if output is None else Row(**{**output, "implementation": "naive_vmap"})


def pytorch(case: Case, order: int, multi_step: bool = True) -> Row | None:
    """Measures `pytorch_mamlpp.py`; None without torch, and where it takes too long."""
    if importlib.util.find_spec("torch") is None:
        return None
    script = Path(__file__).with_name("pytorch_mamlpp.py")
    names = ("way", "shot", "query", "tasks", "steps", "size", "channels", "filters")
    flags = {
        **{name: getattr(case, name) for name in names},
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
        ms_median=output["ms_median"],
        ms_min=output["ms_min"],
        runs=output["runs"],
        gflop=round(count_gflop(case, order, multi_step), 2),
        note=f"torch {output['torch']}, {output['threads']} threads",
    )
