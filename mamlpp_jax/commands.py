"""What the command line can do, as functions of a configuration."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax import dry_run as dry_run_lib
from mamlpp_jax import final_test, pictures
from mamlpp_jax import workdir as workdir_lib
from mamlpp_jax.checkpoints import Checkpoints, quiet_orbax
from mamlpp_jax.data.load import known_channels, load_dataset
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.program import Program, build
from mamlpp_jax.results import results_table
from mamlpp_jax.train import train as train_loop


class Overrides(NamedTuple):
    """What an evaluation changes; None keeps what was trained.

    Attributes:
        way: classes per task.
        shot: support images per class.
        query: query images per class.
        inner_steps: S.
        statistics: comma-separated modes.
        data_config: a configuration with other data to test on.
    """

    way: int | None = None
    shot: int | None = None
    query: int | None = None
    inner_steps: int | None = None
    statistics: str | None = None
    data_config: ConfigDict | None = None


def resolve_config(
    mode: str, config: ConfigDict | None, workdir: pathlib.Path | None, overrides: Overrides
) -> ConfigDict:
    """The validated configuration of a command: the given one, or for an evaluation the workdir's own.

    Raises:
        ConfigError: there is none, it is not valid, or evaluation flags were given to another mode.
        WorkdirError: the workdir has no readable configuration, or one that differs.
    """
    if mode != "evaluate" and any(value is not None for value in overrides):
        given = ", ".join(f"--{k}" for k, v in overrides._asdict().items() if v is not None)
        raise ConfigError(
            f"{given} change an evaluation only; for training use the configuration's fields "
            "(--config=FILE:way=20 or --config.task.way=20)."
        )
    if mode == "evaluate" and workdir is None:
        raise ConfigError("--mode=evaluate needs --workdir, the folder of a trained run.")
    if mode == "evaluate" and workdir is not None and config is None:
        # The devices are those of this machine, not of the one that trained.
        return config_lib.with_default_compute(workdir_lib.read_config(workdir))
    if config is None:
        raise ConfigError("--config is missing, for example --config=configs/quickstart.py.")
    config_lib.validate(config)
    if workdir is not None:
        workdir_lib.check_owner(workdir, config)
    return config


def train(config: ConfigDict, workdir: pathlib.Path | None = None) -> None:
    """Trains, tests and reports; continues what is unfinished, only reports what is finished.

    Args:
        config: validated.
        workdir: the run's folder; None for a name made of the configuration.

    Raises:
        MamlppError: bad input, or numbers gone bad; see `mamlpp_jax.errors`.
    """
    workdir = workdir or workdir_lib.default_workdir(config)
    workdir_lib.check_owner(workdir, config)
    results = workdir_lib.read_results(workdir)
    if results is not None and final_test.is_tested(results, config):
        logging.info("%s is finished", workdir)
        _print_results(results, workdir)
        return
    program = build(config, load_dataset(config.data))
    logging.info("configuration:\n%s", config)
    logging.info("%s", dry_run_lib.describe_devices(program))
    logging.info("learned by the outer loop:\n%s", dry_run_lib.describe_model(program))
    workdir_lib.claim(workdir, config)
    quiet_orbax()
    logging.info("workdir: %s", workdir)
    with Checkpoints(workdir, config.evaluation.ensemble) as checkpoints:
        train_loop(program, workdir, checkpoints)
        states = final_test.best_states(program, checkpoints)
        conditions = final_test.as_trained(config)
        rows, answers = final_test.run_test(program, states, conditions)
        results = final_test.collect_results(workdir, program, checkpoints, rows)
        pictures.draw_run(workdir, program, states[0], results, answers)
    # Last, since a run with results counts as finished.
    final_test.write_results(workdir, results)
    _print_results(results, workdir)


def evaluate(config: ConfigDict, workdir: pathlib.Path, overrides: Overrides) -> None:
    """Tests a trained run, also under other conditions, and adds them to its results.

    Args:
        config: the run's.
        workdir: the run's.
        overrides: what to change.

    Raises:
        MamlppError: bad input; see `mamlpp_jax.errors`.
    """
    workdir_lib.read_config(workdir)  # Nothing is made in a folder that no run has claimed.
    if not (workdir / "checkpoints").is_dir():
        raise WorkdirError(f"the run in {workdir} has no checkpoint; train before evaluating.")
    tested_config = _with_overrides(config, overrides)
    config_lib.validate(tested_config)
    dataset = load_dataset(tested_config.data)
    tested = build(tested_config, dataset, splits=("test",))
    trained = tested.as_trained(config)
    conditions = final_test.as_trained(tested_config)
    if overrides.data_config is not None:
        _check_channels(config, tested)
        conditions = dataclasses.replace(conditions, data=config_lib.data_label(tested_config))
    quiet_orbax()
    with Checkpoints(workdir, config.evaluation.ensemble) as checkpoints:
        states = final_test.best_states(trained, checkpoints)
        rows, _ = final_test.run_test(tested, states, conditions)
        results = final_test.collect_results(workdir, trained, checkpoints, rows)
    final_test.write_results(workdir, results)
    _print_results(results, workdir)


def _with_overrides(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    changed = copy.deepcopy(config)
    for field in ("way", "shot", "query"):
        value = getattr(overrides, field)
        if value is not None:
            changed.task[field] = value
    if overrides.inner_steps is not None:
        changed.train.inner_steps = overrides.inner_steps
    if overrides.statistics is not None:
        changed.norm.eval_statistics = overrides.statistics
    if overrides.data_config is not None:
        changed.data = _other_data(config, overrides.data_config)
    return changed


def _other_data(config: ConfigDict, other: ConfigDict) -> ConfigDict:
    """The data of another configuration, normalised as those that the run was trained on."""
    if other.data.image_size != config.data.image_size:
        raise ConfigError(
            f"--data_config has data.image_size {other.data.image_size}, but the run was trained on images of "
            f"{config.data.image_size} pixels; add --data_config.data.image_size={config.data.image_size}."
        )
    data = copy.deepcopy(other.data)
    data.normalize = config.data.normalize
    return data


def _check_channels(config: ConfigDict, tested: Program) -> None:
    """Checks that a run's model can take other images, as far as its configuration tells."""
    trained, found = known_channels(config.data), tested.image_shape[-1]
    if trained not in (0, found):
        raise ConfigError(
            f"--data_config: the images of {tested.config.data.name} have {found} channel(s), but the run was "
            f"trained on images of {trained}; data.channels of image_folder and tfds:<name> chooses (1 grey, 3 colour)."
        )


def _print_results(results: dict[str, object], workdir: pathlib.Path) -> None:
    print(f"\n{results_table(results)}\n\nresults: {workdir / 'results.md'}", flush=True)


def dry_run(config: ConfigDict, workdir: pathlib.Path | None = None) -> None:
    """Prints what a run would do; writes nothing but the data cache."""
    print(f"workdir: {workdir or workdir_lib.default_workdir(config)}\n")
    print(dry_run_lib.describe(build(config, load_dataset(config.data))))
