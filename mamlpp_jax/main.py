"""The command line.

    python -m mamlpp_jax.main --config=configs/omniglot.py:way=20,shot=1,method=maml++
    python -m mamlpp_jax.main --mode=evaluate --workdir=runs/... --shot=5 --statistics=support
    srun python -m mamlpp_jax.main --config=... --workdir=SHARED_FOLDER --distributed

Exit codes: 0 done; 2 bad input or numbers gone bad, with one paragraph on standard error; 75 stopped early (SIGTERM,
SIGINT or --max_minutes) with everything saved: the same command goes on. A second signal leaves at once.
"""

from __future__ import annotations

import json
import logging as std_logging
import os
import pathlib
import re
import sys
import traceback
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mamlpp_jax import commands, processes
from mamlpp_jax import config as config_lib
from mamlpp_jax.data.load import cache_folder
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.parallel import cpu_devices
from mamlpp_jax.stopping import STOPPED_EXIT_CODE, StoppedError, Stopper

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
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that SLURM, Open MPI or a TPU pod started."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Several processes: host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several processes: this one, from 0.")

_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes",
    0.0,
    "Train: save and leave after so many minutes; 0 = no limit.",
    lower_bound=0.0,
)

USAGE_EXIT_CODE = 2


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a mistake in them is one paragraph, not a traceback."""
    try:
        _check_field_names(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ConfigError(f"{rest[1]!r} is not a flag; flags start with --.")
        if _CONFIG.value is not None:
            _CONFIG.value.items()  # A file that cannot be read is only told of on first use.
    except (flags.Error, MamlppError) as error:
        _fail(str(_root_cause(error)))
    except SyntaxError as error:
        _fail(f"--config: {error.filename} is not a configuration file: {error}")
    except OSError as error:
        _fail(f"--config cannot be read: {str(error).splitlines()[-1].strip()}")
    except (AttributeError, KeyError) as error:
        # What ml_collections raises when a configuration file reads a field that is not there.
        _fail(f"--config: unknown configuration field: {_first_text(error)}")
    except (TypeError, ValueError) as error:
        _fail(f"a --config field has a value of the wrong type: {error}")
    return rest


def _check_field_names(argv: list[str]) -> None:
    """Checks the fields of --config.FIELD=... flags, whose own message names a part of the field."""
    for argument in argv[1:]:
        override = re.match(r"--?(no)?config\.(?P<field>[^=]+)", argument)
        if override:
            config_lib.check_field(override["field"])


def _root_cause(error: BaseException) -> BaseException:
    """Our own error, which the flag libraries wrap into others that quote its traceback."""
    cause: BaseException | None = error
    root = error
    while cause is not None:
        root = cause if isinstance(cause, MamlppError) else root
        cause = cause.__cause__ or cause.__context__
    return root


def _first_text(error: BaseException) -> str:
    """The message of an error whose argument may be another error, on one line."""
    first = error.args[0] if error.args else ""
    return _first_text(first) if isinstance(first, BaseException) else " ".join(str(first).split())


def _fail(message: str) -> NoReturn:
    print(f"error: {processes.whose()}{message.strip()}", file=sys.stderr)
    if processes.joined():
        processes.abandon(USAGE_EXIT_CODE)
    sys.exit(USAGE_EXIT_CODE)


def _set_up_jax(config: ConfigDict, group: processes.Group) -> None:
    """Sets what must be set before JAX is first used, and joins the other processes."""
    # A machine without a TPU says so at length; which devices are used is logged anyway.
    std_logging.getLogger("jax._src.xla_bridge").setLevel(std_logging.WARNING)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        compiled = cache_folder(config.data.cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled))
    # Splits the CPU into devices; means nothing to a GPU.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    count = processes.join(group)
    cores = max(cores // processes.sharing_host(group, count), 1)
    tasks, devices = config.train.tasks_per_step, config.compute.devices
    jax.config.update("jax_num_cpu_devices", cpu_devices(tasks, devices, count, cores))
    if not processes.is_first():
        logging.set_verbosity(logging.WARNING)


def _check_same_command(config: ConfigDict, overrides: commands.Overrides) -> None:
    """Processes that run different things would wait for one another for ever."""
    fields = config.to_dict()
    for field in ("tfds_dir", "manual_dir", "cache_dir"):  # where each host has its data
        del fields["data"][field]
    command = [_MODE.value, _DRY_RUN.value, overrides, fields]
    processes.check_same(
        "the command or configuration",
        [json.dumps(command, sort_keys=True).encode()],
        "Give every process the same flags, --process_id and the folders of the data aside.",
    )


def _main(argv: list[str]) -> None:
    """Runs the command; an error in one of several processes ends it without waiting for the others."""
    del argv
    logging.set_verbosity(logging.INFO)
    try:
        _run()
        processes.leave()
    except StoppedError as error:
        print(f"{processes.whose()}stopped: {error}", file=sys.stderr)
        processes.leave()
        sys.exit(STOPPED_EXIT_CODE)
    except MamlppError as error:
        _fail(str(error))
    except (Exception, KeyboardInterrupt):
        if not processes.joined():
            raise
        traceback.print_exc()
        processes.abandon(1)


def _run() -> None:
    group = processes.Group(
        _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
    overrides = commands.Overrides(
        _WAY.value, _SHOT.value, _QUERY.value, _INNER_STEPS.value, _STATISTICS.value
    )
    stopper = Stopper(_MAX_MINUTES.value)
    processes.check_group(group)
    config = commands.resolve_config(_MODE.value, _CONFIG.value, workdir, overrides)
    _set_up_jax(config, group)
    _check_same_command(config, overrides)
    if _DRY_RUN.value:
        commands.dry_run(config, workdir)
    elif _MODE.value == "evaluate":
        assert workdir is not None  # Else resolve_config has complained.
        commands.evaluate(config, workdir, overrides)
    else:
        # After joining the others, whose set-up installs handlers of its own.
        with stopper.listening():
            commands.train(config, workdir, stopper)


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse_flags)
