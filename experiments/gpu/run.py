"""Checks, benchmark and training on a GPU, in pieces of a few minutes that resume; README.md beside it has the order.

    python -m experiments.gpu.run --part=parity,conv,bench --output=DIR --max_minutes=9
    python -m experiments.gpu.run --part=train --output=DIR --cache=omniglot-28px-v1.npz --max_minutes=9

What is found in DIR counts as done: keep its files, put them back on the next machine, and go on. What follows ` -- `
are flags of `mamlpp_jax.main` for the training.

Exit codes: 0 all parts are done; 75 time is up, give the command again; 2 bad input; 1 the training failed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.child import leave_when_terminated
from experiments.gpu.checks import conv_jobs, parity_jobs
from experiments.gpu.jobs import Job, Ledger, run_jobs
from experiments.gpu.training import train
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE

_PARTS = ("parity", "conv", "bench", "train")
_PART = flags.DEFINE_list("part", list(_PARTS), f"What to do, in order: {', '.join(_PARTS)}.")
_OUTPUT = flags.DEFINE_string("output", "gpu_report", "Folder of the few files that remain.")
_SCRATCH = flags.DEFINE_string(
    "scratch",
    os.path.join(tempfile.gettempdir(), "mamlpp_gpu"),
    "Folder of the run being trained and of compiled functions.",
)
_CACHE = flags.DEFINE_string("cache", "omniglot-28px-v1.npz", "The cached data set, for train.")
_MAX_MINUTES = flags.DEFINE_float("max_minutes", 9.0, "Save and leave after so many minutes.")
_WORKERS = flags.DEFINE_integer("workers", 3, "Processes that check at a time.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Everything as small as possible, to try the script.")
_RETRY = flags.DEFINE_bool("retry", False, "Run jobs again that failed or took too long.")
_LEAST_MINUTES = 1.0  # to start a training with; compiling takes most of it
_PACKING_MINUTES = 0.3
_PATIENCE = 6.0  # with --tiny, which may run on a busy CPU


def main(argv: list[str]) -> None:
    """Runs the parts asked for until the time is up."""
    deadline = time.monotonic() + 60 * _MAX_MINUTES.value
    unknown = set(_PART.value) - set(_PARTS)
    if unknown:
        raise app.UsageError(f"--part has {', '.join(unknown)}; choose from {', '.join(_PARTS)}")
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    leave_when_terminated()  # Else worker processes would outlive this one.
    # Several processes share the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    done = True
    try:
        for part in _PART.value:
            done &= (
                _train(output, deadline, argv[1:])
                if part == "train"
                else _jobs(part, output, deadline)
            )
    except MamlppError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if not done:
        print("stopped: time is up; give the command again with the same --output")
        sys.exit(STOPPED_EXIT_CODE)


def _jobs(part: str, output: Path, deadline: float) -> bool:
    """Runs what is left of a part's jobs; whether all have been run."""
    ledger = Ledger(output / ("bench.jsonl" if part == "bench" else "checks.jsonl"))
    jobs = _list_jobs(part)
    left = ledger.unfinished(jobs, retry=_RETRY.value)
    print(f"{part}: {len(left)} of {len(jobs)} jobs left", flush=True)

    def record(found: dict[str, Any]) -> None:
        ledger.add(found)
        print(f"{found['job']}: {found['status']}, {found['seconds']} s", flush=True)
        if part == "bench":
            _report(output)

    # Rows are timed one at a time.
    workers = 1 if part == "bench" else _WORKERS.value
    done = run_jobs(left, record, workers=workers, deadline=deadline)
    _report(output)
    return done


def _list_jobs(part: str) -> list[Job]:
    from experiments.gpu.bench import bench_jobs  # It imports JAX, which takes seconds.

    jobs = {"parity": parity_jobs, "conv": conv_jobs, "bench": bench_jobs}[part](_TINY.value)
    patience = _PATIENCE if _TINY.value else 1.0
    return [job._replace(limit=patience * job.limit) for job in jobs]


def _report(output: Path) -> None:
    from experiments.gpu.report import write_gpu_report

    checks, bench = (Ledger(output / f"{name}.jsonl").records for name in ("checks", "bench"))
    write_gpu_report(checks, bench, output)


def _train(output: Path, deadline: float, further: list[str]) -> bool:
    minutes = (deadline - time.monotonic()) / 60 - _PACKING_MINUTES
    if minutes < _LEAST_MINUTES:
        return False
    # One process has the device.
    os.environ.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
    scratch, cache = Path(_SCRATCH.value), Path(_CACHE.value)
    return train(output, scratch, cache, minutes, tiny=_TINY.value, further=further)


if __name__ == "__main__":
    app.run(main)
