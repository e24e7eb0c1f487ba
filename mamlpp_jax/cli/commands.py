"""What the command line can do, as functions of a configuration."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.evaluation import Predictions
from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.fingerprint import fingerprint
from mamlpp_jax.data.sources.registry import known_channels, load_dataset
from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.reports import run_figures
from mamlpp_jax.reports.results_page import results_table
from mamlpp_jax.training import final_evaluation
from mamlpp_jax.training import summary as dry_run_lib
from mamlpp_jax.training.checkpoints import Checkpoints, quiet_orbax
from mamlpp_jax.training.experiment import Program, build
from mamlpp_jax.training.preemption import Stopper
from mamlpp_jax.training.trainer import train as train_loop
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.files import exists
from mamlpp_jax.utils.locks import only_writer


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


def to_compare(config: ConfigDict, overrides: Overrides) -> list[Any]:
    """What must be the same in every process, for JSON: not where each host has its data."""
    other = overrides.data_config
    changes = overrides._replace(data_config=None if other is None else _without_folders(other))
    return [list(changes), _without_folders(config)]


def _without_folders(config: ConfigDict) -> dict[str, Any]:
    fields: dict[str, Any] = config.to_dict()
    for field in ("tfds_dir", "manual_dir", "cache_dir"):
        del fields["data"][field]
    return fields


def train(
    config: ConfigDict, workdir: pathlib.Path | None = None, stopper: Stopper | None = None
) -> None:
    """Trains, tests and reports; continues what is unfinished, only reports what is finished.

    Args:
        config: validated.
        workdir: the run's folder; None for a name made of the configuration.
        stopper: asked whether to leave early; None to run to the end.

    Raises:
        StoppedError: the stopper said so; what is done is saved.
        MamlppError: bad input, or numbers gone bad; see `mamlpp_jax.errors`.
    """
    workdir = workdir or workdir_lib.default_workdir(config)
    workdir_lib.check_owner(workdir, config)
    results = workdir_lib.read_results(workdir)
    if processes.any_process(final_evaluation.is_tested(results, config)):
        logging.info("%s is finished", workdir)
        _print_results(results, workdir)
        return
    dataset, digest = _load_everywhere(config)
    program = build(config, dataset)
    _check_classes_everywhere(program)
    workdir_lib.check_data(workdir, digest, program.class_names)
    logging.info("configuration:\n%s", config)
    logging.info("%s", dry_run_lib.describe_devices(program))
    logging.info("learned by the outer loop:\n%s", dry_run_lib.describe_model(program))
    quiet_orbax()
    logging.info("workdir: %s", workdir)
    stopper = stopper or Stopper()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_writer(workdir))
        _claim_together(workdir, config)
        if processes.is_first():
            channels = dataset.images.shape[-1]
            workdir_lib.note_data(workdir, digest, channels, program.class_names)
        checkpoints = stack.enter_context(_open_checkpoints(workdir, config))
        train_loop(program, workdir, checkpoints, stopper)
        states = final_evaluation.best_states(program, checkpoints)
        conditions = final_evaluation.as_trained(config)
        rows, answers = final_evaluation.run_test(program, states, conditions, stopper.check)
        steps = checkpoints.latest_step() or 0
        results = final_evaluation.collect_results(workdir, program, steps, states, rows)
        if processes.is_first():
            _draw_figures(workdir, program, states[0], results, answers)
        # Last, since a run with results counts as finished.
        _report(results, workdir)


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
    if not exists(workdir / "checkpoints"):
        raise WorkdirError(f"the run in {workdir} has no checkpoint; train before evaluating.")
    tested_config = _with_overrides(config, overrides)
    config_lib.validate(tested_config)
    dataset, digest = _load_everywhere(tested_config)
    conditions = final_evaluation.as_trained(tested_config)
    if overrides.data_config is not None:
        _check_channels(workdir_lib.noted_channels(workdir), config, dataset)
        label = f"{config_lib.data_label(tested_config)} {digest[:8]}"
        conditions = dataclasses.replace(conditions, data=label)
    tested = build(tested_config, dataset, splits=("test",))
    _check_classes_everywhere(tested)
    if overrides.data_config is None:
        workdir_lib.check_data(workdir, digest, tested.class_names)
    trained = tested.as_trained(config)
    quiet_orbax()
    with _only_writer(workdir), _open_checkpoints(workdir, config) as checkpoints:
        states = final_evaluation.best_states(trained, checkpoints)
        rows, _ = final_evaluation.run_test(tested, states, conditions)
        steps = checkpoints.latest_step() or 0
        results = final_evaluation.collect_results(workdir, trained, steps, states, rows)
        _report(results, workdir)


def _only_writer(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Process 0 writes, so it holds the lock."""
    return only_writer(workdir) if processes.is_first() else contextlib.nullcontext()


def _open_checkpoints(workdir: pathlib.Path, config: ConfigDict) -> Checkpoints:
    return Checkpoints(workdir, config.evaluation.ensemble, config.to_dict())


def _load_everywhere(config: ConfigDict) -> tuple[Dataset, str]:
    """Loads the data in every process: process 0 first, whose cache the others may find.

    Returns:
        The data set and its fingerprint.
    """
    with processes.first_then_others("data"):
        dataset = load_dataset(config.data)
    digest = fingerprint(dataset)
    processes.check_same(
        "the data set",
        [digest.encode()],
        "Every host must have the same images: remove its cached data set to make it again.",
    )
    return dataset, digest


def _check_classes_everywhere(program: Program) -> None:
    processes.check_same(
        "the split of the classes",
        [repr(program.class_names).encode()],
        "Every host must have the same data.split_file.",
    )


def _claim_together(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Process 0 claims the workdir; the others check that it is the same folder to them.

    Raises:
        WorkdirError: it cannot be written, or is not shared; the latter in every process.
    """
    if processes.is_first():
        workdir_lib.claim(workdir, config)
    processes.wait_for_all("claim")
    if processes.any_process(not (workdir / workdir_lib.CONFIG_FILE).exists()):
        raise WorkdirError(
            f"workdir {workdir} is not the same folder to every process; with several hosts it must "
            "lie on a file system that all of them share."
        )


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


def _check_channels(noted: int, config: ConfigDict, dataset: Dataset) -> None:
    """Checks that a run's model can take other images, as far as the run tells."""
    trained, found = noted or known_channels(config.data), dataset.images.shape[-1]
    if trained not in (0, found):
        raise ConfigError(
            f"--data_config: the images of {dataset.name} have {found} channel(s), but the run was "
            f"trained on images of {trained}; data.channels of image_folder and tfds:<name> chooses (1 grey, 3 colour)."
        )


def _draw_figures(
    workdir: pathlib.Path,
    program: Program,
    best: MetaState,
    results: dict[str, Any],
    predictions: Predictions,
) -> None:
    """Draws the run, with the best epoch's inner rates and the first test task's predictions."""
    rates = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(best.inner)
    }
    run_figures.draw_run(
        workdir,
        metrics=read_metrics(workdir),
        test=results["test"],
        inner_rates=rates,
        episode=jax.tree.map(lambda leaf: leaf[0], program.episodes("test", 1)),
        probabilities=np.asarray(jax.nn.softmax(predictions.logits[0, -1])),
        class_names=program.drawn_classes("test", 0),
    )


def _report(results: dict[str, Any], workdir: pathlib.Path) -> None:
    if processes.is_first():
        final_evaluation.write_results(workdir, results)
    _print_results(results, workdir)


def _print_results(results: dict[str, Any] | None, workdir: pathlib.Path) -> None:
    if results is not None and processes.is_first():
        print(f"\n{results_table(results)}\n\nresults: {workdir / 'results.md'}", flush=True)


def dry_run(config: ConfigDict, workdir: pathlib.Path | None = None) -> None:
    """Prints what a run would do; writes nothing but the data cache."""
    dataset, digest = _load_everywhere(config)
    program = build(config, dataset)
    if workdir is not None:
        workdir_lib.check_data(workdir, digest, program.class_names)
    text = dry_run_lib.describe(program)
    if processes.is_first():
        print(f"workdir: {workdir or workdir_lib.default_workdir(config)}\n\n{text}")
