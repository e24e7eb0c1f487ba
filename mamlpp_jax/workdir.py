"""What a working directory is called, whose it is, and what is written about the run as a whole."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import jax
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.files import read_json, write_json

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"


def default_workdir(config: ConfigDict) -> pathlib.Path:
    """``runs/<experiment>-<method>-seed<seed>-<hash of the configuration>``."""
    name = f"{config.experiment}-{config.method}-seed{config.seed}-{config_lib.config_hash(config)}"
    return pathlib.Path("runs") / name


def check_owner(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Checks that a working directory is new, or was made by the same configuration.

    Raises:
        WorkdirError: it is a file, cannot be read, or belongs to a run that differs; names the fields.
    """
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"workdir {workdir} is a file; it must be a folder, new or of this run.")
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    different = config_lib.differences(config, _read_object(path))
    if different:
        raise WorkdirError(
            f"workdir {workdir} belongs to a run of another configuration ({'; '.join(different)}). "
            "Use another --workdir, or the same configuration to continue that run."
        )


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes `config.json` into the working directory, which is made when missing.

    Raises:
        WorkdirError: it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"workdir {workdir} cannot be made ({error.strerror}).") from error
    write_json(workdir / CONFIG_FILE, config.to_dict())


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration a working directory was trained with.

    Raises:
        WorkdirError: there is none, it cannot be read, or it does not fit this version.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise WorkdirError(f"{path} does not exist; --workdir must be the folder of a trained run.")
    try:
        return config_lib.from_dict(_read_object(path))
    except ConfigError as error:
        raise WorkdirError(f"{path} does not fit this version: {error}") from error


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise WorkdirError(f"{path} holds a {type(content).__name__}; it must hold a JSON object.")
    return content


def read_results(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The run's results so far, None when there are none."""
    path = workdir / RESULTS_FILE
    return _read_object(path) if path.exists() else None


def provenance(devices: int) -> dict[str, Any]:
    """The code and the machine a run is computed with.

    Args:
        devices: how many devices the run uses.
    """
    hardware = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
    }
    return {"commit": _commit(), "hardware": hardware}


def _commit() -> str:
    """The git commit of the code, with "-dirty" where files differ from it; "unknown" outside git."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
