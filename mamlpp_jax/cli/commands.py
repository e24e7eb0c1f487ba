"""The commands, as functions of a configuration."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import figures
from mamlpp_jax.cli.evaluation_flags import changed_rotations, check_channels, with_overrides
from mamlpp_jax.cli.reporting import write_report
from mamlpp_jax.config.own_code import Code, is_own, source_hashes
from mamlpp_jax.config.parts import OUTER_DIRECTIONS
from mamlpp_jax.data.dataset import SPLITS, Dataset, fingerprint
from mamlpp_jax.data.sampled_episodes import EpisodeSource, own_data_hash, own_episodes
from mamlpp_jax.data.sources.registry import known_channels, load_dataset
from mamlpp_jax.distributed import processes
from mamlpp_jax.distributed.mesh import replicated
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.inference.start import copy_start, read_start
from mamlpp_jax.training import final_evaluation
from mamlpp_jax.training.callbacks import Callback
from mamlpp_jax.training.checkpoint_access import read_checkpoints, report_state
from mamlpp_jax.training.checkpoints import CheckpointReader, Checkpoints, quiet_orbax
from mamlpp_jax.training.dry_run import describe, describe_briefly, describe_test
from mamlpp_jax.training.experiment import Experiment, build_experiment
from mamlpp_jax.training.learner import state_shapes
from mamlpp_jax.training.memory import check_memory
from mamlpp_jax.training.memory_checkpoints import MemoryCheckpoints
from mamlpp_jax.training.preemption import PreemptionHandler
from mamlpp_jax.training.trainer import train as train_loop
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.terminal import phase

_NO_CODE = Code()


def resolve_config(
    mode: str,
    config: ConfigDict | None,
    workdir: Workdir | None,
    overrides: Mapping[str, Any],
    data_config: ConfigDict | None = None,
    *,
    code: Code = _NO_CODE,
) -> ConfigDict:
    """The validated configuration of a command: the given one, or for an evaluation the workdir's own.

    `overrides` are given values of `evaluation_flags.EVALUATION_FLAGS`; `data_config` has the data to test on instead
    of the run's; `code` is what the user allows of code that stored configurations name.
    """
    flags = [*overrides, *([] if data_config is None else ["data_config"])]
    if mode != "evaluate" and flags:
        raise ConfigError(
            f"{', '.join(f'--{flag}' for flag in flags)} change an evaluation only; for training use the "
            "configuration's fields (--config=FILE:way=20 or --config.task.way=20)."
        )
    if mode == "evaluate":
        if workdir is None:
            raise ConfigError("--mode=evaluate needs --workdir, the folder of a trained run.")
        if config is None:
            # Devices and the way to compute are those of this machine, not of the one that trained.
            return config_lib.with_default_compute(workdir.config(allow_code=code.allowed))
    if config is None:
        raise ConfigError("--config is missing, for example --config=configs/quickstart.py.")
    if mode == "pretrain" and not OUTER_DIRECTIONS[config.train.outer_gradient].all_classes:
        config = copy.deepcopy(config)
        config_lib.apply_method(config, "supervised")
    config_lib.validate(config)
    if workdir is not None:
        workdir.check_owner(config)
    return config


def to_compare(
    config: ConfigDict, overrides: Mapping[str, Any], data_config: ConfigDict | None
) -> list[Any]:
    """The part of a command that must be the same in every process, for JSON; each host may have its data elsewhere."""
    other = None if data_config is None else config_lib.without_folders(data_config).to_dict()
    return [dict(overrides), other, config_lib.without_folders(config).to_dict()]


class Tested(NamedTuple):
    """The outcome of a training or an evaluation, with the parts that made it.

    Attributes:
        results: content of `results.json`, "test" as `Evaluation`s.
        states: the tested ones, best first; none where a finished run was only looked up.
        correct: correct query images of each task, uint16 [tasks], by `Evaluation.key`.
        predictions: the ensemble's, under the first statistics mode; None where a finished run was only looked up.
        experiment: the parts that were tested; None as above.
    """

    results: dict[str, Any]
    states: Sequence[MetaState]
    correct: Mapping[str, np.ndarray]
    predictions: Predictions | None
    experiment: Experiment | None


@quiet_orbax()
def train(
    config: ConfigDict,
    workdir: Workdir | None = None,
    preemption: PreemptionHandler | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    code: Code = _NO_CODE,
) -> Tested:
    """Trains, tests and reports; continues an unfinished run, only looks up a finished one.

    Without a workdir nothing is written; without a handler of preemption it runs to the end.

    Raises:
        StoppedError: the handler said so; everything done is saved.
        MamlppError: bad input, or numbers gone bad; see `mamlpp_jax.errors`.
    """
    results = None
    if workdir is not None:
        workdir.check_owner(config)
        results = workdir.results()
    if workdir and results and processes.any_process(final_evaluation.is_tested(results, config)):
        logging.info("%s is finished", workdir)
        return Tested(results, (), workdir.correct_per_task(), None, None)
    preemption = preemption or PreemptionHandler()
    data, digest = load_everywhere(config)
    preemption.check_signal()
    with phase("setting up devices and learner"):
        experiment = _build_everywhere(config, workdir, data, digest)
        hashes = source_hashes(config)
        experiment = dataclasses.replace(
            experiment, start=read_start(config, workdir, code.allowed)
        )
        if workdir is not None:
            workdir.check_data(digest, experiment.class_names)
            workdir.check_code(hashes, allow_change=code.change_allowed)
        about = describe_briefly(experiment)
    logging.info("%s", about)
    preemption.check_signal()
    with contextlib.ExitStack() as stack:
        checkpoints: Checkpoints | MemoryCheckpoints
        checkpoints = MemoryCheckpoints(config.evaluation.ensemble)
        if workdir is not None:
            logging.info("workdir: %s", workdir)
            if processes.is_first():
                stack.enter_context(workdir.only_writer())
            _claim_together(workdir, config)
            if processes.is_first():
                channels = data.images.shape[-1] if isinstance(data, Dataset) else 0
                workdir.record_data(digest, channels, experiment.class_names)
                workdir.record_code(hashes)
                copy_start(config, workdir, code.allowed)
            with phase("opening the checkpoints"):
                checkpoints = stack.enter_context(
                    Checkpoints(workdir.path, config.evaluation.ensemble, config.to_dict())
                )
        train_loop(experiment, workdir, checkpoints, preemption, callbacks)
        return _test_and_report(experiment, workdir, checkpoints, preemption)


def _test_and_report(
    experiment: Experiment,
    workdir: Workdir | None,
    checkpoints: Checkpoints | MemoryCheckpoints,
    preemption: PreemptionHandler,
) -> Tested:
    config = experiment.config
    with phase("reading the best epochs"):
        states = final_evaluation.best_states(
            checkpoints, config.evaluation.ensemble, experiment.state_shapes()
        )
    tests, queries, predictions = final_evaluation.run_test(
        experiment, states, before_each=preemption.check
    )
    tried = final_evaluation.try_inner_steps(experiment, states[0])
    with _adding_results(workdir):
        results = final_evaluation.collect_results(
            config,
            workdir.results() if workdir else None,
            states,
            tests,
            steps=checkpoints.latest_step() or 0,
            devices=experiment.mesh.size,
            of_training=True,
        )
        if experiment.start is not None:
            results["started_from"] = dict(experiment.start.origin)
        if tried:
            results["validation_per_inner_step"] = tried
        if workdir and processes.is_first():
            with phase("drawing the figures"):
                figures.draw_run(workdir, experiment, states[0], results["test"], predictions)
            # Last, since a run with results counts as finished.
            write_report(results, queries, workdir)
    correct = {key: of.correct_per_task for key, of in queries.items()}
    return Tested(results, states, correct, predictions, experiment)


def _adding_results(workdir: Workdir | None) -> contextlib.AbstractContextManager[None]:
    if workdir is None or not processes.is_first():
        return contextlib.nullcontext()
    return workdir.adding_results()


@quiet_orbax()
def evaluate(
    config: ConfigDict,
    workdir: Workdir,
    overrides: Mapping[str, Any],
    data_config: ConfigDict | None = None,
    *,
    code: Code = _NO_CODE,
) -> Tested:
    """Tests a trained run, also under other conditions, and adds them to its results.

    Nothing else in the folder changes. Another process may be training the run: then its latest state is tested.
    """
    workdir.config(allow_code=code.allowed)  # Nothing is made in a folder that no run has claimed.
    workdir.check_writable()
    stored = workdir.results()
    workdir.predictions()  # Files that cannot be added to are reported now.
    tested, data, latest = _prepare_test(config, workdir, overrides, data_config, code)
    like = state_shapes(config, tested.example_inputs, replicated(tested.mesh))
    best = partial(final_evaluation.best_states, count=config.evaluation.ensemble, like=like)
    with phase("reading the best epochs"):
        states = read_checkpoints(workdir.path, best)
    report_state(workdir.path, config, latest, [int(state.step) for state in states])
    tests, queries, predictions = final_evaluation.run_test(
        tested, states, data=data, rotated="" if data else changed_rotations(config, tested.config)
    )
    with _adding_results(workdir):
        known = workdir.results()
        overtaken = _is_finished(known) and not _is_finished(stored)
        if processes.is_first() and overtaken and latest < config_lib.total_steps(config):
            raise WorkdirError(
                f"the run in {workdir} was finished while an earlier state of it was tested; its results stay as they "
                "are. Give the command again to test the finished run."
            )
        results = final_evaluation.collect_results(
            config, known, states, tests, steps=latest, devices=tested.mesh.size
        )
        if processes.is_first():
            write_report(results, queries, workdir)
    correct = {key: of.correct_per_task for key, of in queries.items()}
    return Tested(results, states, correct, predictions, tested)


def _is_finished(results: Mapping[str, Any] | None) -> bool:
    return bool(results and results.get("finished"))


def _prepare_test(
    config: ConfigDict,
    workdir: Workdir,
    overrides: Mapping[str, Any],
    data_config: ConfigDict | None,
    code: Code,
) -> tuple[Experiment, str, int]:
    """Everything an evaluation needs but the states; changes nothing in the workdir.

    Returns:
        The parts; the name of the data in results, "" for the run's own; and the latest whole checkpoint's outer step.
    """
    tested_config = with_overrides(config, overrides, data_config)
    config_lib.validate(tested_config)
    # Before the data are loaded.
    latest = read_checkpoints(workdir.path, CheckpointReader.latest_step)
    workdir.check_code(source_hashes(config), allow_change=code.change_allowed)
    dataset, digest = load_everywhere(tested_config, training=False)
    if data_config is not None:
        if is_own(config.data.name) != is_own(data_config.data.name):
            raise ConfigError(
                f"--data_config has data.name={data_config.data.name}, but the run was trained on {config.data.name}, "
                "and of the two one samples its episodes itself; give data of the same form."
            )
        if isinstance(dataset, Dataset):
            check_channels(workdir.recorded_channels(), config, dataset)
    tested = _build_everywhere(tested_config, workdir, dataset, digest, ("test",))
    if data_config is None:
        workdir.check_data(digest, tested.class_names)
        return tested, "", latest or 0
    if seen := workdir.trained_classes(digest).intersection(tested.class_names["test"]):
        raise ConfigError(
            f"--data_config has the run's images, and the run was trained on or chosen by {len(seen)} of its test "
            f"classes, such as {min(seen)!r}; split them as the run does."
        )
    # Tells tests apart that take other classes, or rotations of them, from data of one name.
    data = tested_config.data
    chosen = [digest, data.rotations and data.rotate_evaluation, *tested.class_names["test"]]
    short_hash = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]
    return tested, f"{config_lib.data_label(tested_config)} {short_hash}", latest or 0


def load_everywhere(
    config: ConfigDict, *, training: bool = True
) -> tuple[Dataset | EpisodeSource, str]:
    """Loads data that leave enough memory, and their fingerprint, in every process.

    Process 0 is first, whose cache the others may use.
    """
    if is_own(config.data.name):
        values = dict(config_lib.flatten(config))
        return own_episodes(values), own_data_hash(values)
    channels = known_channels(config.data) or 1
    with phase("estimating the memory"):
        check_memory(config, channels, training=training)
    with processes.first_then_others("data"):
        dataset = load_dataset(config.data)
    with phase("hashing the images"):
        digest = fingerprint(dataset)
    processes.check_same(
        "the data set",
        [digest.encode()],
        "Every host must have the same images: remove its cached data set to make it again.",
    )
    return dataset, digest


def _build_everywhere(
    config: ConfigDict,
    workdir: Workdir | None,
    data: Dataset | EpisodeSource,
    digest: str,
    splits: Sequence[str] = SPLITS,
) -> Experiment:
    """Builds the parts, with the recorded classes of the workdir, in every process."""
    recorded = workdir.recorded_classes(digest) if workdir else {}
    experiment = build_experiment(config, data, splits, recorded)
    processes.check_same(
        "the split of the classes",
        [repr(experiment.class_names).encode()],
        "Every host must have the same data.split_file.",
    )
    return experiment


def _claim_together(workdir: Workdir, config: ConfigDict) -> None:
    """Process 0 claims the workdir; the others check that it is the same folder to them."""
    if processes.is_first():
        workdir.claim(config)
    processes.wait_for_all("claim")
    if processes.any_process(not workdir.config_file.exists()):
        raise WorkdirError(
            f"workdir {workdir} is not the same folder to every process; with several hosts it must "
            "lie on a file system that all of them share."
        )


def dry_run(config: ConfigDict, workdir: Workdir | None = None) -> None:
    """Prints the parts and the schedule of a run; writes nothing but the data cache."""
    workdir = workdir or Workdir.default(config)
    dataset, digest = load_everywhere(config)
    experiment = _build_everywhere(config, workdir, dataset, digest)
    workdir.check_data(digest, experiment.class_names)
    text = describe(experiment)
    if processes.is_first():
        print(f"workdir: {workdir}\n\n{text}")


def dry_run_evaluation(
    config: ConfigDict,
    workdir: Workdir,
    overrides: Mapping[str, Any],
    data_config: ConfigDict | None = None,
    *,
    code: Code = _NO_CODE,
) -> None:
    """Prints the tests that `evaluate` would do; writes nothing but the data cache, and compiles nothing."""
    workdir.config(allow_code=code.allowed)
    tested, data, latest = _prepare_test(config, workdir, overrides, data_config, code)
    text = describe_test(tested)
    if processes.is_first():
        total = config_lib.total_steps(config)
        print(
            f"workdir: {workdir}, latest whole checkpoint after outer step {latest} of {total}\n"
            f"data: {data or 'those of the run'}\n\n{text}"
        )
