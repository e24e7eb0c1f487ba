"""The checksum manifest of a checkpoint, and the removal of checkpoints whose files do not match it."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
import re
import shutil

from absl import logging

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors, write_json

MANIFEST = "sha256.json"
TEMPORARY = ".orbax-checkpoint-tmp"
# Written by Orbax after the manifest: the time, and that it was done.
_UNLISTED = (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")


def write_manifest(checkpoint: pathlib.Path) -> None:
    """Writes the SHA-256 of every file of a checkpoint beside them."""
    write_json(checkpoint / MANIFEST, _digests(checkpoint))


def find_damage(checkpoint: pathlib.Path) -> str:
    """The damage of a checkpoint, as a clause; "" when its files match its manifest.

    A file that cannot be read says nothing of its content: that is an OSError.
    """
    if not (checkpoint / MANIFEST).exists():
        return f"it has no {MANIFEST}, so it was not completely written"
    try:
        listed, actual = json.loads((checkpoint / MANIFEST).read_bytes()), _digests(checkpoint)
    except (ValueError, RecursionError) as error:
        return f"{MANIFEST} is not readable as JSON: {error}"
    if not isinstance(listed, dict):
        return f"{MANIFEST} is damaged"
    different = sorted(
        name for name in listed.keys() | actual.keys() if listed.get(name) != actual.get(name)
    )
    return f"{', '.join(different[:3])} differ from what was saved" if different else ""


def _digests(checkpoint: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file that a restore reads, by its path inside the checkpoint."""
    paths = ((str(path.relative_to(checkpoint)), path) for path in sorted(checkpoint.rglob("*")))
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in paths
        if path.is_file() and name not in _UNLISTED
    }


def complete_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders that Orbax has given their final names, oldest step first."""
    if not folder.is_dir():
        return []
    steps = (path for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name))
    return sorted((path for path in steps if path.is_dir()), key=lambda path: int(path.name))


def remove_half_written(folder: pathlib.Path) -> None:
    """Removes the temporary folders of saves that were cut off; warns of each by name."""
    for temporary in sorted(folder.glob(f"*{TEMPORARY}*")):
        logging.warning(
            "checkpoint %s was only half written and is removed; the one before it is used.",
            temporary,
        )
        with wrap_os_errors(temporary, "remove"):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


def quarantine_damaged(folder: pathlib.Path, quarantine: pathlib.Path) -> None:
    """Moves damaged checkpoints into the folder `quarantine`, made when needed; warns of each by name.

    Raises:
        WorkdirError: the checkpoints cannot be read or moved, or every one is damaged: then nothing is moved, since
            starting from the beginning would discard the run's metrics.
    """
    with wrap_os_errors(folder, "read the checkpoints in"):
        damage = {
            checkpoint: find_damage(checkpoint) for checkpoint in complete_checkpoints(folder)
        }
        latest_valid = max(
            (int(c.name) for c, problem in damage.items() if not problem), default=-1
        )
        if damage and latest_valid < 0:
            problems = "; ".join(f"{c.name}: {problem}" for c, problem in damage.items())
            raise WorkdirError(
                f"every checkpoint in {folder} is damaged ({problems}). Restore their files from a copy, or train "
                "again in another --workdir."
            )
        for checkpoint, problem in damage.items():
            if not problem:
                continue
            target = _free_name(quarantine / checkpoint.name)
            # A later one may be valid; then the damaged one was there for its accuracy.
            was_latest = int(checkpoint.name) > latest_valid
            logging.warning(
                "checkpoint %s is skipped: %s. It is moved to %s, and %s.",
                checkpoint,
                problem,
                target,
                "the one before it is used" if was_latest else "is missing among the best epochs",
            )
            quarantine.mkdir(exist_ok=True)
            checkpoint.rename(target)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(free for free in itertools.chain([path], names) if not free.exists())
