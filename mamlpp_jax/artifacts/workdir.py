"""What a working directory is called, whose it is, and what is written about the run as a whole."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.utils.files import exists, naming, read_json, remove_unfinished, write_json

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
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
    with naming(workdir, "look at the workdir"):
        is_file = workdir.exists() and not workdir.is_dir()
    if is_file:
        raise WorkdirError(f"workdir {workdir} is a file; it must be a folder, new or of this run.")
    path = workdir / CONFIG_FILE
    if not exists(path):
        if any((workdir / "checkpoints").glob("[0-9]*")):
            raise WorkdirError(
                f"workdir {workdir} holds checkpoints, but no {CONFIG_FILE} that says whose they are. Restore "
                "that file, or use another --workdir."
            )
        return
    different = config_lib.differences(config, _read_object(path))
    if different:
        raise WorkdirError(
            f"workdir {workdir} belongs to a run of another configuration ({'; '.join(different)}). "
            "Use another --workdir, or the same configuration to continue that run."
        )


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes `config.json` into the working directory, which is made when missing.

    Args:
        workdir: locked by this process, so that what unfinished writers left in it can be removed.
        config: the run's.

    Raises:
        WorkdirError: it cannot be written, or became another run's since it was last looked at.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"workdir {workdir} cannot be made ({error.strerror}).") from error
    check_owner(workdir, config)
    remove_unfinished(workdir)
    write_json(workdir / CONFIG_FILE, config.to_dict())


def check_data(workdir: pathlib.Path, fingerprint: str, classes: Mapping[str, list[str]]) -> None:
    """Checks that a run's data are those it began with.

    Args:
        workdir: the run's; one that has noted no data yet takes any.
        fingerprint: of the whole data set.
        classes: names of the classes of the splits in use.

    Raises:
        WorkdirError: pictures were added, removed or changed, or the classes are split otherwise.
    """
    path = workdir / DATA_FILE
    if not exists(path):
        return
    noted = _read_object(path)
    if noted.get("sha256") != fingerprint:
        raise WorkdirError(
            f"workdir {workdir} belongs to a run on other pictures, or on the same in other classes ({DATA_FILE} "
            "says which classes). Use another --workdir, or give the run its data back to continue it."
        )
    known = noted.get("classes")
    for split, names in classes.items():
        if not isinstance(known, dict) or known.get(split) != names:
            raise WorkdirError(
                f"workdir {workdir} belongs to a run that had other classes in its {split} split, which "
                f"{DATA_FILE} lists. Use another --workdir, or the same data.split_file to continue it."
            )


def note_data(
    workdir: pathlib.Path, fingerprint: str, channels: int, classes: Mapping[str, list[str]]
) -> None:
    """Writes `data.json`: what a run is trained and tested on.

    Args:
        workdir: the run's.
        fingerprint: of the whole data set.
        channels: of its pictures.
        classes: names of the classes of every split.

    Raises:
        WorkdirError: it cannot be written.
    """
    content = {"sha256": fingerprint, "channels": channels, "classes": dict(classes)}
    write_json(workdir / DATA_FILE, content)


def noted_channels(workdir: pathlib.Path) -> int:
    """Channels of the pictures a run is trained on; 0 where it is not noted.

    Raises:
        WorkdirError: the file cannot be read.
    """
    path = workdir / DATA_FILE
    channels = _read_object(path).get("channels") if exists(path) else 0
    return channels if isinstance(channels, int) else 0


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration a working directory was trained with.

    Raises:
        WorkdirError: there is none, it cannot be read, or it does not fit this version.
    """
    path = workdir / CONFIG_FILE
    if not exists(path):
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
    """The run's results so far, None when there are none.

    Raises:
        WorkdirError: the file cannot be read, or is not what a run writes.
    """
    path = workdir / RESULTS_FILE
    if not exists(path):
        return None
    results = _read_object(path)
    wrong = _wrong_in_results(results)
    if wrong:
        raise WorkdirError(
            f"{path} does not fit this version: {wrong}. Restore it; or move it away, and the same training "
            "command tests the run and writes it again."
        )
    return results


# What is read back from `results.json`; everything else in it is for people and other programs.
_ROW_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "train_statistics": str,
    "eval_statistics": str,
    "way": int,
    "shot": int,
    "query": int,
    "inner_steps": int,
    "tasks": int,
    "accuracy": (int, float),
    "ci95": (int, float),
    "accuracy_per_step": list,
}


def _wrong_in_results(results: dict[str, Any]) -> str:
    try:
        trained = results["config"]["task"]["way"], results["config"]["train"]["inner_steps"]
    except (KeyError, TypeError):
        trained = ("", "")
    if not all(isinstance(number, int) for number in trained):
        return "it lacks the run's configuration"
    rows = results.get("test")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return '"test" is not a list of objects'
    for row in rows:
        for name, kind in _ROW_TYPES.items():
            if not isinstance(row.get(name), kind):
                return f'a row of "test" has {name}={row.get(name)!r}'
        if not all(isinstance(value, (int, float)) for value in row["accuracy_per_step"]):
            return f'a row of "test" has accuracy_per_step={row["accuracy_per_step"]!r}'
    return ""


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
