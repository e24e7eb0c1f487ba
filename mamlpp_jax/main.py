"""The command line.

    python -m mamlpp_jax.main --config=configs/omniglot.py:way=20,shot=1,method=maml++
    python -m mamlpp_jax.main --mode=evaluate --workdir=runs/... --shot=5 --statistics=support
    python -m mamlpp_jax.main --mode=evaluate --workdir=runs/... --data_config=configs/image_folder.py

Bad input ends with one paragraph on standard error and exit code 2.
"""

from __future__ import annotations

import logging as std_logging
import os
import pathlib
from functools import partial

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mamlpp_jax import commands
from mamlpp_jax.command_line import fail, parse_flags
from mamlpp_jax.data.load import cache_folder
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.parallel import largest_divisor

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, optionally with an argument after a colon.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: a name made of the config."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print shapes, memory and the schedule, and stop.")
_WAY = flags.DEFINE_integer("way", None, "Evaluate: classes per task.", lower_bound=2)
_SHOT = flags.DEFINE_integer("shot", None, "Evaluate: support images per class.", lower_bound=1)
_QUERY = flags.DEFINE_integer("query", None, "Evaluate: query images per class.", lower_bound=1)
_INNER_STEPS = flags.DEFINE_integer("inner_steps", None, "Evaluate: inner steps.", lower_bound=1)
_STATISTICS = flags.DEFINE_string(
    "statistics", None, "Evaluate: batch, running, support, or several."
)

_DATA_CONFIG = config_flags.DEFINE_config_file(
    "data_config",
    None,
    "Evaluate: configuration file whose data are tested on, instead of those of the run.",
    lock_config=True,
)


def _set_up_jax(config: ConfigDict) -> None:
    """Sets what must be set before JAX is first used."""
    # A machine without a TPU says so at length; which devices are used is logged anyway.
    std_logging.getLogger("jax._src.xla_bridge").setLevel(std_logging.WARNING)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        compiled = cache_folder(config.data.cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled))
    # Splits the CPU into devices; means nothing to a GPU.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    devices = config.compute.devices or largest_divisor(config.train.tasks_per_step, cores)
    jax.config.update("jax_num_cpu_devices", devices)


def _main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
    overrides = commands.Overrides(
        _WAY.value,
        _SHOT.value,
        _QUERY.value,
        _INNER_STEPS.value,
        _STATISTICS.value,
        _DATA_CONFIG.value,
    )
    try:
        config = commands.resolve_config(_MODE.value, _CONFIG.value, workdir, overrides)
        _set_up_jax(config)
        if _DRY_RUN.value:
            commands.dry_run(config, workdir)
        elif _MODE.value == "evaluate":
            assert workdir is not None  # Else resolve_config has complained.
            commands.evaluate(config, workdir, overrides)
        else:
            commands.train(config, workdir)
    except MamlppError as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(_main, flags_parser=partial(parse_flags, configs=(_CONFIG, _DATA_CONFIG)))
