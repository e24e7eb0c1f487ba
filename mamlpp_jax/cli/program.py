"""The command `python -m mamlpp_jax.main`: trains, tests and describes runs.

    python -m mamlpp_jax.main --config=configs/omniglot.py:way=20,shot=1,method=maml++
    python -m mamlpp_jax.main --mode=evaluate --workdir=runs/... --shot=5 --statistics=support
    srun python -m mamlpp_jax.main --config=... --workdir=SHARED_FOLDER --distributed
    python -m mamlpp_jax.main --mode=evaluate --workdir=runs/... --data_config=configs/image_folder.py \
        --data_config.data.manual_dir=DIR

Exit codes: 0 done; 2 bad input or numbers gone bad, with one paragraph on standard error; 75 a training stopped early
(SIGTERM, SIGINT or --max_minutes) with everything saved: the same command goes on. A second signal leaves at once, as
Ctrl-C does in an evaluation, a dry run and before a training begins.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.cli.evaluation_flags import EVALUATION_FLAGS, naming_flags
from mamlpp_jax.cli.flags import CONFIG, USAGE_EXIT_CODE, define_config, parse_flags
from mamlpp_jax.cli.log import set_up_compilation, set_up_log
from mamlpp_jax.cli.reporting import print_results
from mamlpp_jax.config.own_code import Code, check_allowed, own_names
from mamlpp_jax.distributed import processes
from mamlpp_jax.distributed.mesh import available_devices, cpu_devices
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.statistics import STATISTICS
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE, PreemptionHandler, StoppedError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: a name made of the config."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "pretrain"], "What to do.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print shapes, memory and the schedule, and stop; compiles for minutes."
)
flags.DEFINE_integer("way", None, "Evaluate: classes per task.", lower_bound=2)
flags.DEFINE_integer("shot", None, "Evaluate: support images per class.", lower_bound=1)
flags.DEFINE_integer("query", None, "Evaluate: query images per class.", lower_bound=1)
flags.DEFINE_integer("tasks", None, "Evaluate: test tasks.", lower_bound=2)
flags.DEFINE_integer("inner_steps", None, "Evaluate: inner steps.", lower_bound=1)
flags.DEFINE_bool("rotated", None, "Evaluate: whether rotations of test classes are classes too.")
flags.DEFINE_string("statistics", None, f"Evaluate: one or several of {', '.join(STATISTICS)}.")
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

_ALLOW_CODE = flags.DEFINE_bool(
    "allow_code", False, "Import code that a stored config.json names (module:attribute)."
)
_ALLOW_CODE_CHANGE = flags.DEFINE_bool(
    "allow_code_change", False, "Continue a run although the source of its own parts changed."
)

_DATA_CONFIG = define_config(
    "data_config",
    "Evaluate: configuration file whose data are tested on, instead of those of the run.",
)


def _fail(message: str) -> NoReturn:
    """Ends this process without waiting for others, nor for threads of a save that failed."""
    print(f"error: {' '.join((processes.process_prefix() + message).split())}", file=sys.stderr)
    processes.hard_exit(USAGE_EXIT_CODE)


def _set_up_jax(config: ConfigDict, group: processes.Group) -> None:
    """Sets what must be set before JAX is first used, and joins the other processes."""
    set_up_compilation(config.data.cache_dir)
    # Splits the CPU into devices; means nothing to a GPU.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    count = processes.join(group)
    cores = max(cores // processes.sharing_host(group, count), 1)
    tasks, devices = config.train.tasks_per_step, config.compute.devices
    jax.config.update("jax_num_cpu_devices", cpu_devices(tasks, devices, count, cores))
    available_devices()  # Where JAX finds none, it says so before anything is read.
    if not processes.is_first():
        logging.set_verbosity(logging.WARNING)


def _check_same_command(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Processes that run different things would wait for one another for ever."""
    compared = commands.to_compare(config, overrides, _DATA_CONFIG.value)
    command = [_MODE.value, _DRY_RUN.value, *compared]
    processes.check_same(
        "the command or configuration",
        [json.dumps(command, sort_keys=True).encode()],
        "Give every process the same flags, --process_id and the folders of the data aside.",
    )


def _main(argv: list[str]) -> None:
    """Runs the command; an error ends this process without waiting for anything."""
    del argv
    set_up_log()
    try:
        _run()
        processes.leave()
    except StoppedError as error:
        print(f"{processes.process_prefix()}stopped: {error}", file=sys.stderr)
        processes.leave()
        sys.exit(STOPPED_EXIT_CODE)
    except MamlppError as error:
        _fail(str(error))
    except Exception:
        traceback.print_exc()
        processes.hard_exit(1)


def _run() -> None:
    group = processes.Group(
        _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    workdir = Workdir(_WORKDIR.value) if _WORKDIR.value else None
    given = {flag: flags.FLAGS[flag].value for flag in EVALUATION_FLAGS}
    overrides = {flag: value for flag, value in given.items() if value is not None}
    other_data = _DATA_CONFIG.value
    preemption = PreemptionHandler(_MAX_MINUTES.value)
    if _MAX_MINUTES.value and (_MODE.value == "evaluate" or _DRY_RUN.value):
        raise ConfigError(
            f"--max_minutes is {_MAX_MINUTES.value:g}, but only a training can save and go on; leave it out."
        )
    processes.check_group(group)
    code = Code(_ALLOW_CODE.value, _ALLOW_CODE_CHANGE.value)
    config = commands.resolve_config(
        _MODE.value, CONFIG.value, workdir, overrides, other_data, code=code
    )
    tested: commands.Tested | None = None
    _check_source(CONFIG, code)
    _check_source(_DATA_CONFIG, code)
    if own_names(config) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    _set_up_jax(config, group)
    _check_same_command(config, overrides)
    if _MODE.value == "evaluate":
        assert workdir is not None  # Else resolve_config has complained.
        run = commands.dry_run_evaluation if _DRY_RUN.value else commands.evaluate
        with naming_flags(other_data is not None):
            tested = run(config, workdir, overrides, other_data, code=code)
    elif _DRY_RUN.value:
        commands.dry_run(config, workdir)
    else:
        workdir = workdir or Workdir.default(config)
        # After joining the others, whose set-up installs handlers of its own.
        with preemption.listening():
            tested = commands.train(config, workdir, preemption, code=code)
    if tested is not None and workdir is not None:
        print_results(tested.results, workdir)


def _check_source(flag: flags.FlagHolder, code: Code) -> None:
    """Checks the code that a `config.json` names, unless this command line names it."""
    given = flags.FLAGS[flag.name]
    if flag.value is None or not str(config_flags.get_config_filename(given)).partition(":")[
        0
    ].endswith(".json"):
        return
    named_here = set(config_flags.get_override_values(given))
    config = copy.deepcopy(flag.value)
    for field in set(own_names(config)) & named_here:
        config[field.partition(".")[0]][field.partition(".")[2]] = ""
    check_allowed(config, config_flags.get_config_filename(given), code.allowed)


def main() -> None:
    """Runs the command on its flags."""
    app.run(
        _main, flags_parser=partial(parse_flags, configs=(CONFIG, _DATA_CONFIG), module=__name__)
    )
