"""The paper's Omniglot 20-way 1-shot MAML++, in pieces; between them the run is one archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from experiments.child import child
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from mamlpp_jax.utils.files import atomic_open

ARCHIVE, COMPILED = "run.tar.gz", "compiled.tar.gz"
LARGEST_BYTES = 15 * 2**20  # of the archive of compiled functions, which a run can do without
CONFIG = "configs/omniglot.py:way=20,shot=1,method=maml++,protocol=paper"
_ROOT = Path(__file__).resolve().parents[2]
_CACHE_NAME = "omniglot-28px-v1.npz"
# The same program where a GPU's day is rehearsed on a CPU.
_TINY = {
    **{"train.epochs": 2, "train.steps_per_epoch": 2, "train.tasks_per_step": 2},
    **{"train.inner_steps": 1, "train.first_order_epochs": 1, "train.multi_step_epochs": 1},
    **{"model.filters": 2, "evaluation.tasks": 2, "task.way": 2},
}


def command(
    workdir: Path, cache: Path, minutes: float, tiny: bool, further: Sequence[str]
) -> list[str]:
    """The command that trains: the paper's configuration, without TensorBoard's files, from a cached data set.

    Args:
        workdir: of the run.
        cache: the folder of the cached data set.
        minutes: after which the run saves and leaves.
        tiny: whether to make everything as small as possible.
        further: flags of `mamlpp_jax.main`, the last of which win.
    """
    fields = {"data.cache_dir": cache, "log.tensorboard": False, **(_TINY if tiny else {})}
    return [
        *(sys.executable, "-m", "mamlpp_jax.main", f"--config={CONFIG}", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in fields.items()),
        f"--max_minutes={minutes:.2f}",
        *further,
    ]


def train(
    output: Path,
    scratch: Path,
    cache: Path,
    minutes: float,
    *,
    tiny: bool = False,
    further: Sequence[str] = (),
) -> bool:
    """Goes on with the run for some minutes and packs it.

    Args:
        output: the folder of the archives of the run and of its compiled functions; see `take`.
        scratch: a folder to work in.
        cache: the cached data set, `omniglot-28px-v1.npz`.
        minutes: for all of this.
        tiny: see `command`.
        further: see `command`.

    Returns:
        Whether the run is finished.

    Raises:
        ConfigError: the cached data set is missing.
        RuntimeError: the run failed; it is packed as it stands.
    """
    workdir, compiled = scratch / "run", scratch / "compiled"
    folder = place_cache(cache, scratch / "data")
    targets = {output / ARCHIVE: workdir, output / COMPILED: compiled}
    for archive, target in targets.items():
        take(archive, target)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    try:
        trained = command(workdir, folder, minutes, tiny, further)
        with child(trained, env=environment, cwd=_ROOT) as process:
            process.wait()
    finally:
        for archive, target in targets.items():
            if target.exists():
                size = pack(target, archive)
                print(f"{archive}: {size / 2**20:.1f} MiB", flush=True)
        if (output / COMPILED).exists() and (output / COMPILED).stat().st_size > LARGEST_BYTES:
            (output / COMPILED).unlink()
    if process.returncode not in (0, STOPPED_EXIT_CODE):
        raise RuntimeError(f"the training ended with exit code {process.returncode}")
    return process.returncode == 0


def place_cache(cache: Path, folder: Path) -> Path:
    """Puts the cached data set where training looks for it.

    Args:
        cache: the file, under any name.
        folder: made when needed.

    Returns:
        The folder, for `data.cache_dir`.

    Raises:
        ConfigError: there is no such file.
    """
    if not cache.is_file():
        raise ConfigError(
            f"--cache is {cache}, which is no file; give the cached data set {_CACHE_NAME}, which "
            "`python -m mamlpp_jax.data --config=configs/omniglot.py` makes in data.cache_dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _CACHE_NAME
    if not target.exists():
        shutil.copyfile(cache, target)
    return folder


def take(archive: Path, folder: Path) -> None:
    """Unpacks an archive, unless the folder goes on from that very archive, which `pack` made or `take` unpacked.

    What another machine packed is newer than what is left here of an earlier day.
    """
    if archive.exists() and not (folder.exists() and _origin(folder) == _digest(archive)):
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = folder.with_name(f"{folder.name}.unpacking")
        shutil.rmtree(unfinished, ignore_errors=True)
        unpack(archive, unfinished)
        unfinished.rename(folder)
        _origin_file(folder).write_text(_digest(archive))


def _origin_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.origin")


def _origin(folder: Path) -> str:
    path = _origin_file(folder)
    return path.read_text() if path.exists() else ""


def _digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(folder: Path, archive: Path) -> int:
    """Packs a folder into one file, which takes its place when it is complete; returns its bytes."""
    with (
        atomic_open(archive) as file,
        tarfile.open(fileobj=file, mode="w:gz") as packed,
    ):
        packed.add(folder, arcname=".")
    _origin_file(folder).write_text(_digest(archive))
    return archive.stat().st_size


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks what `pack` packed into a folder that does not exist yet."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
