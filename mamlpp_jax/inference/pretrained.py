"""From a name to a model: shipped with the package, saved or a run's; nothing is downloaded."""

from __future__ import annotations

import os
import pathlib

from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.model import FewShotModel, from_runs
from mamlpp_jax.inference.saved_model import CONFIG, DESCRIPTION, holds_model, load_model
from mamlpp_jax.utils.files import exists

SHIPPED = pathlib.Path(__file__).parents[1] / "pretrained"


def shipped_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def find_model(
    name: str | os.PathLike[str], ensemble: int | None = None, *, allow_code: bool = False
) -> FewShotModel:
    """Loads a model, shipped, saved or a run's; see `FewShotClassifier.from_pretrained` for arguments and errors."""
    if ensemble is not None and ensemble < 1:
        raise ModelError(f"ensemble is {ensemble}; it must be 1 or more.")
    folder = find_folder(name)
    if holds_model(folder):
        return load_model(folder, allow_code=allow_code).first_members(ensemble)
    if exists(folder / "results.json") and not exists(folder / "checkpoints"):
        raise ModelError(
            f"{folder} holds a run's results, but neither its checkpoints nor {DESCRIPTION}: the weights were not "
            "archived."
        )
    # The second is there before the first checkpoint of a run that is being trained.
    if any(exists(folder / part) for part in ("checkpoints", "data.json")):
        # Brings Orbax along, a second that saved models do not need.
        from mamlpp_jax.inference.trained_run import load_best

        return from_runs(load_best(folder, ensemble or 1, allow_code=allow_code))
    if not exists(folder / CONFIG):
        shipped = ", ".join(shipped_models()) or "this installation has none"
        raise ModelError(
            f"There is no trained model {os.fspath(name)!r}: it is neither one of the models that come with mamlpp_jax "
            f"({shipped}) nor the folder of a saved model or of a run."
        )
    return load_model(folder, allow_code=allow_code).first_members(ensemble)


def find_folder(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a model's files; it need not exist."""
    return SHIPPED / name if name in shipped_models() else pathlib.Path(name).expanduser()
