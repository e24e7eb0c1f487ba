"""The code and the machine a run is computed with."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import jax


def provenance(devices: int) -> dict[str, Any]:
    """The code and the machine a run is computed with, for `results.json`.

    Args:
        devices: how many devices the run uses.
    """
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


def describe(made: Mapping[str, Any]) -> str:
    """What `provenance` returned, as one line; "unknown" for what is missing."""
    hardware = made.get("hardware", {})
    device = hardware.get("device", "unknown hardware")
    if hardware.get("platform") == "cpu":
        device = hardware.get("processor") or device
    number = hardware.get("devices", "unknown number of")
    words = [f"{device}, {number} {'device' if number == 1 else 'devices'}"]
    words.append(f"JAX {hardware.get('jax', 'unknown')}")
    return ", ".join([*words, f"commit {made.get('commit', 'unknown')}"])


def _processor() -> str:
    """The CPU's name; on Linux the platform module has none."""
    with contextlib.suppress(OSError):
        info = pathlib.Path("/proc/cpuinfo").read_text()
        if found := re.search(r"model name\s*: (.*)", info):
            return found[1]
    return platform.processor()


def _commit() -> str:
    """The git commit of the code, with "-dirty" where files differ from it.

    Outside its repository it is MAMLPP_COMMIT, which says what was copied; "unknown" without that variable.
    """
    here = pathlib.Path(__file__).resolve()
    try:
        # An installed copy may lie in the repository of another project, which does not track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(
            here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAMLPP_COMMIT") or "unknown"


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", *arguments]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 10, "check": True}
    return str(subprocess.run(command, **options).stdout)  # type: ignore[call-overload]
