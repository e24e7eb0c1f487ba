"""The trained weights that a run starts from (`train.start_from`), and their copy in its working directory."""

from __future__ import annotations

import hashlib
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.parts import OUTER_DIRECTIONS
from mamlpp_jax.errors import ConfigError, MamlppError, WorkdirError
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import holds_model, load_model, save_model
from mamlpp_jax.inference.weights import named_arrays
from mamlpp_jax.training.start_from import Start


def read_start(config: ConfigDict, workdir: Workdir | None, allow_code: bool) -> Start | None:
    """Reads the weights that a run starts from; those in its working directory where it has been started before.

    Args:
        config: the run's.
        workdir: the run's.
        allow_code: whether code that their configuration names may be imported.

    Raises:
        ConfigError: the weights cannot be read, or name code that is not allowed.
        WorkdirError: the run was started from other weights, or from none.
    """
    model = _find(config, workdir, allow_code)
    if model is None:
        return None
    meta, batch_stats = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), (model.meta, model.batch_stats)
    )
    trained = model.config
    origin = {
        "name": pathlib.PurePath(config.train.start_from).name,
        "sha256": _sha256(model),
        "experiment": trained.experiment,
        "method": trained.method,
        "seed": trained.seed,
        "steps": model.steps[0],
    }
    direction = OUTER_DIRECTIONS[trained.train.outer_gradient]
    return Start(trained, meta, batch_stats, not direction.all_classes, origin)


def copy_start(config: ConfigDict, workdir: Workdir, allow_code: bool) -> None:
    """Copies the weights that a run starts from into its working directory, where they are not yet."""
    if workdir.has_work():
        return
    if model := _find(config, workdir, allow_code):
        save_model(workdir.start_folder, model)
    elif workdir.start_folder.exists():  # of an attempt without a checkpoint
        shutil.rmtree(workdir.start_folder)


def _find(config: ConfigDict, workdir: Workdir | None, allow_code: bool) -> FewShotModel | None:
    source = config.train.start_from
    copied = None if workdir is None else _copy(workdir, allow_code)
    begun = workdir is not None and workdir.has_work()
    if begun and bool(source) != bool(copied):
        raise WorkdirError(
            f"workdir {workdir} belongs to a run that was started {'from trained weights' if copied else 'anew'}; "
            f"{'give it a config.train.start_from' if copied else 'leave config.train.start_from empty'} to continue "
            "it, or use another --workdir."
        )
    if not source or (copied and not pathlib.Path(source).expanduser().exists()):
        return copied if source else None
    given = _read(source, allow_code)
    if begun and copied and _sha256(copied) != _sha256(given):
        raise WorkdirError(
            f"workdir {workdir} belongs to a run that was started from other weights than those of {source} (their "
            "SHA-256 differs); use another --workdir, or the same weights to continue it."
        )
    return given


def _copy(workdir: Workdir, allow_code: bool) -> FewShotModel | None:
    folder = workdir.start_folder
    return load_model(folder, allow_code=allow_code) if holds_model(folder) else None


def _read(source: str, allow_code: bool) -> FewShotModel:
    try:
        return find_model(source, 1, allow_code=allow_code)
    except MamlppError as error:
        raise ConfigError(f"config.train.start_from is {source!r}: {error}") from error


def _sha256(model: FewShotModel) -> str:
    """The hash of every number of a model, by name; a model's file has a text about it too."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_arrays(model.meta, model.batch_stats).items()):
        array = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{name} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
