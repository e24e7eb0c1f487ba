"""What a configuration amounts to: the fields that tell runs apart, and values that follow from fields."""

from __future__ import annotations

import copy
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax.config.fields import FIELDS, default_config, flatten
from mamlpp_jax.config.parts import INIT_THETA
from mamlpp_jax.config.rules import AUTOMATIC_FRACTIONS, FOLDER, OPTIONS, parse_list
from mamlpp_jax.config.stored import REMOVED_FIELDS, complete
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.statistics import STATISTICS

_OWN_IMAGES = "image_folder"
# What `norm.hand_over` counts as where it does not act: its default before it was 0, so that runs keep their hashes.
_SILENT_HAND_OVER = 0.5


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that change with every field that changes the run.

    The hash of a run is that of the versions that had the removed fields and lacked the added ones.
    """
    fields = _run_fields(config) | {name: field.off for name, field in REMOVED_FIELDS.items()}
    for name, field in FIELDS.items():
        if field.added and fields.get(name) == field.default:
            del fields[name]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def differences(ours: ConfigDict, stored: dict[str, Any]) -> list[str]:
    """Why `stored`, a `config.json` perhaps of another version, is of another run than ours; [] when it is not.

    A text such as "config.train.epochs: 150 here, 100 there" for each field that differs and changes the run, in order
    of name; or why this version cannot have such a run.
    """
    try:
        here, there = _run_fields(ours), _run_fields(complete(stored))
    except ConfigError as error:
        return [str(error).removesuffix(".")]
    return [
        f"config.{name}: {here[name]!r} here, {there[name]!r} there"
        for name in sorted(here)
        if here[name] != there[name]
    ]


def _run_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that change the run."""
    every = dict(flatten(config))
    every |= {
        name: json.dumps(json.loads(every[name]), sort_keys=True)
        for name, field in FIELDS.items()
        if field.rule is OPTIONS
    }
    resumable = {name for name, field in FIELDS.items() if field.resumable}
    fields = {name: value for name, value in every.items() if name not in resumable}
    # Chosen fractions are the usual ones where classes are enough; `data.json` has the classes themselves.
    if fields.get("data.split_fractions") == "":
        fields["data.split_fractions"] = AUTOMATIC_FRACTIONS
    if fields["norm.train_statistics"] not in [m.name for m in STATISTICS.values() if m.annealed]:
        fields["norm.hand_over"] = _SILENT_HAND_OVER
    if every.get("data.name") == _OWN_IMAGES:
        # Data sets are told apart by the name of their folder, wherever the folder is.
        fields["data.manual_dir"] = pathlib.PurePath(str(every.get("data.manual_dir", ""))).name
    return fields


def without_folders(config: ConfigDict) -> ConfigDict:
    """A copy that names no folder of the machine that has the data."""
    folders = [f for f, field in FIELDS.items() if field.rule is FOLDER and field.resumable]
    changed = copy.deepcopy(ConfigDict(config))
    changed.update_from_flattened_dict(dict.fromkeys(folders, ""))
    return changed


def with_default_compute(config: ConfigDict) -> ConfigDict:
    """A copy that leaves devices, chunks and the way to compute convolutions to the machine it runs on."""
    changed, default = copy.deepcopy(config), default_config()
    changed.compute, changed.model.conv = default.compute, default.model.conv
    return changed


def data_label(config: ConfigDict) -> str:
    """The name of the data in results: the source, and the name of the folder for a user's own images."""
    data = config.data
    folder = pathlib.PurePath(data.manual_dir).name if data.name == _OWN_IMAGES else ""
    return f"{data.name}:{folder}" if folder else data.name


def eval_statistics(config: ConfigDict) -> tuple[str, ...]:
    """The batch-norm statistics modes of evaluation; the first one selects the best epochs."""
    return parse_list(config.norm.eval_statistics)


def serves_any_way(config: ConfigDict | Mapping[str, Any]) -> bool:
    """Checks whether no output belongs to a class, so that a model takes any number of them; fields may be missing."""
    values = dict(flatten(config))
    start = INIT_THETA[values.get("inner.init_theta", "learned")]
    return bool(values.get("model.shared_head")) or start.any_way


def total_steps(config: ConfigDict) -> int:
    """Outer steps of the whole run."""
    return config.train.epochs * config.train.steps_per_epoch
