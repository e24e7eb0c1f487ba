"""The code and the machine a run is computed with."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import jax


def provenance(devices: int) -> dict[str, Any]:
    """The code, and the machine with so many devices, that a run is computed with, for `results.json`."""
    hardware = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "devices": devices,
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
    }
    return {"commit": _commit(), "hardware": hardware}


def describe(record: Mapping[str, Any]) -> str:
    """The result of `provenance` as one line, with "unknown" for a missing part."""
    hardware = record.get("hardware", {})
    device = hardware.get("device", "unknown hardware")
    if hardware.get("platform") == "cpu":
        device = hardware.get("processor") or device
    number = hardware.get("devices", "unknown number of")
    return (
        f"{device}, {number} {'device' if number == 1 else 'devices'}, "
        f"JAX {hardware.get('jax', 'unknown')}, commit {record.get('commit', 'unknown')}"
    )


def _processor() -> str:
    """The CPU's name; on Linux the platform module has none."""
    with contextlib.suppress(OSError):
        info = pathlib.Path("/proc/cpuinfo").read_text()
        if match := re.search(r"model name\s*: (.*)", info):
            return match[1]
    return platform.processor()


def _commit() -> str:
    """The git commit of the code, with "-dirty" where files differ from it.

    Outside its repository MAMLPP_COMMIT, set where the code was copied; "unknown" without that variable.
    """
    here = pathlib.Path(__file__).resolve()
    options = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    git: Any = functools.partial(subprocess.run, cwd=here.parent, **options)
    try:
        # An installed copy may lie in the repository of another project, which does not track it.
        git(["git", "ls-files", "--error-unmatch", here.name])
        described = git(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        return str(described.stdout).strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAMLPP_COMMIT") or "unknown"
