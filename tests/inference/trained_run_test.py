"""A trained run is loaded from its folder alone: which checkpoint, without its data, and without a trace."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from mamlpp_jax.algorithms.averaging import evaluated_meta
from mamlpp_jax.algorithms.metrics import score
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.trained_run import load_run
from mamlpp_jax.training import checkpoint_access, learner as learner_lib
from mamlpp_jax.training.checkpoints import CheckpointReader, Checkpoints
from mamlpp_jax.training.jitted import jitted_evaluator
from tests.helpers.damage import DAMAGES, contents, flip_a_bit
from tests.helpers.refusals import compilations, refused
from tests.helpers.saved_states import at, save_all
from tests.helpers.small_runs import SIZE, patterns, small_config, small_experiment

# Three epochs of two steps; the second is the best.
ACCURACIES = {2: 0.5, 4: 0.9, 6: 0.1}
OWN_IMAGES = {
    "data.name": "image_folder",
    "data.manual_dir": "/none/birds",
    "data.cache_dir": "/none/cache",
}


def save_run(workdir, accuracies, channels=1, **fields):
    """Writes what a run leaves behind; returns its first state, of which `at` gives the others."""
    config = small_config(**fields)
    workdir.claim(config)
    workdir.record_data("f00", channels, {})
    state = learner_lib.init_run_state(config, learner_lib.example_images((SIZE, SIZE, channels)))
    with Checkpoints(workdir.path, num_best=3, config=config.to_dict()) as checkpoints:
        save_all(checkpoints, state, accuracies)
    return state


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path / "run")


@pytest.fixture
def first(workdir):
    return save_run(workdir, ACCURACIES)


def assert_is(run, state):
    assert run.step == int(state.step)
    jax.tree.map(np.testing.assert_array_equal, run.meta, state.meta)
    jax.tree.map(np.testing.assert_array_equal, run.batch_stats, state.batch_stats)


def test_the_average_is_loaded_where_one_is_kept(workdir):
    state = save_run(workdir, ACCURACIES, **{"train.average_decay": 0.9})
    kept = evaluated_meta(at(state, 4))
    jax.tree.map(np.testing.assert_array_equal, load_run(workdir.path).meta, kept)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, kept, at(state, 4).meta)


@pytest.mark.parametrize(
    ("epoch", "step"), [("best", 4), ("latest", 6), (0, 2), (1, 4), (2, 6), (np.int64(2), 6)]
)
def test_the_checkpoint_asked_for_is_loaded(workdir, first, epoch, step):
    run = load_run(str(workdir), epoch)
    assert_is(run, at(first, step))
    assert (run.epoch, run.image_shape) == (step // 2 - 1, (SIZE, SIZE, 1))
    assert run.config.to_dict() == small_config().to_dict()
    assert run.learner.inner_steps == 2
    (device,) = run.meta.params["linear"]["bias"].devices()
    assert device == jax.devices()[0]


def test_it_is_the_best_by_default(workdir, first):
    assert_is(load_run(workdir.path), at(first, 4))


@pytest.mark.parametrize("epoch", [3, -1, "newest", None, 0.5])
def test_an_epoch_that_was_not_kept_is_refused_by_name(workdir, first, epoch):
    with refused(workdir.path, rf"epoch is {epoch!r}; the run in {workdir} kept 0, 1, 2\."):
        load_run(workdir.path, epoch)


def test_before_an_epoch_is_finished_the_latest_is_the_best(workdir):
    first = save_run(workdir, {1: None})
    run = load_run(workdir.path)
    assert_is(run, at(first, 1))
    assert run.epoch == 0
    with refused(workdir.path, "epoch is 0; .* kept no epoch"):
        load_run(workdir.path, 0)


def test_a_folder_that_is_no_run_is_refused(tmp_path, workdir):
    with refused(tmp_path, r"run/config\.json does not exist"):
        load_run(workdir.path)
    workdir.claim(small_config())
    with refused(tmp_path, "run has no checkpoint; train it first"):
        load_run(workdir.path)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_data_set_may_be_gone(workdir, channels):
    first = save_run(workdir, ACCURACIES, channels, **OWN_IMAGES)
    run = load_run(workdir.path)
    assert_is(run, at(first, 4))
    assert run.image_shape == (SIZE, SIZE, channels)


def test_channels_that_only_the_data_tell_are_missed_by_name(workdir):
    save_run(workdir, ACCURACIES, **OWN_IMAGES)
    workdir.data_file.unlink()
    with refused(workdir.path, r"run/data\.json does not say how many channels"):
        load_run(workdir.path)


def test_channels_that_the_data_sets_name_tells_need_no_file(workdir, first):
    workdir.data_file.unlink()
    assert_is(load_run(workdir.path), at(first, 4))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_left_out_by_name(workdir, first, damage, caplog):
    damage(workdir.checkpoints / "4")
    before = contents(workdir.path)
    with caplog.at_level("WARNING", "absl"):
        assert_is(load_run(workdir.path), at(first, 2))
    assert "checkpoints/4 is left out" in caplog.text
    with refused(workdir.path, r"epoch is 1; .* kept 0, 2\."):
        load_run(workdir.path, 1)
    assert contents(workdir.path) == before


def test_the_best_of_the_undamaged_ones_is_the_best(workdir):
    first = save_run(workdir, {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.1})
    for step in (4, 6):
        flip_a_bit(workdir.checkpoints / str(step))
    assert_is(load_run(workdir.path), at(first, 2))


def test_when_every_checkpoint_is_damaged_there_is_no_run(workdir, first):
    del first
    for step in ACCURACIES:
        flip_a_bit(workdir.checkpoints / str(step))
    with refused(
        workdir.path, "no whole checkpoint: the checkpoints of outer step 2, 4, 6 .* damaged"
    ):
        load_run(workdir.path)


HOLD = """
import pathlib, sys, time
from mamlpp_jax.utils.locks import only_writer
with only_writer(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(workdir, first):
    """Another process that holds the run's lock and has a save under way."""
    del first
    unfinished = workdir.checkpoints / "8.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_text("half a state")
    command = [sys.executable, "-c", HOLD, str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("writer")
def test_a_run_that_is_being_written_is_loaded_and_nothing_in_it_changes(workdir, first):
    flip_a_bit(workdir.checkpoints / "4")
    before = contents(workdir.path)
    assert_is(load_run(workdir.path), at(first, 2))
    assert_is(load_run(workdir.path, "latest"), at(first, 6))
    assert contents(workdir.path) == before


def test_an_unfinished_run_says_which_step_is_used(workdir, caplog):
    first = save_run(workdir, {2: 0.9, 4: 0.5})
    with caplog.at_level("WARNING", "absl"):
        assert_is(load_run(workdir.path), at(first, 2))
    assert "latest whole checkpoint is of outer step 4 of 6" in caplog.text
    assert "until outer step 2." in caplog.text
    caplog.clear()
    clf = FewShotClassifier.from_pretrained(workdir.path)
    assert clf.model.steps == (2,)
    assert "until outer step 2." in caplog.text


def test_a_run_before_its_first_checkpoint_says_so(workdir):
    workdir.claim(small_config())
    workdir.record_data("f00", 1, {})
    for load in (load_run, FewShotClassifier.from_pretrained):
        with refused(workdir.path, "has no checkpoint; train it first, or wait for one"):
            load(workdir.path)


@pytest.mark.parametrize("gone", [False, True])
def test_a_checkpoint_that_is_removed_while_it_is_read(workdir, first, monkeypatch, gone):
    """By training, which has saved better and later ones: what is there now is read instead."""
    restore = CheckpointReader.restore

    def slow_restore(self, step, like):
        if step == 4:
            (workdir.checkpoints / "4" / "state" / "manifest.ocdbt").unlink(missing_ok=True)
            if gone:
                shutil.rmtree(workdir.checkpoints / "4")
        return restore(self, step, like)

    monkeypatch.setattr(CheckpointReader, "restore", slow_restore)
    monkeypatch.setattr(checkpoint_access, "_PAUSE_SECONDS", 0)
    if gone:
        assert_is(load_run(workdir.path), at(first, 2))
    else:
        with pytest.raises(WorkdirError, match="checkpoints/4 cannot be restored"):
            load_run(workdir.path)


def test_no_weights_are_initialised(workdir, first, monkeypatch):
    init_model, traced = learner_lib.init_model, []

    def watched(*arguments):
        variables = init_model(*arguments)
        traced.extend(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables))
        return variables

    monkeypatch.setattr(learner_lib, "init_model", watched)
    before = compilations()
    run = load_run(workdir.path)
    assert compilations() == before
    assert traced
    assert all(traced)
    assert_is(run, at(first, 4))


def test_a_state_of_another_configuration_is_refused(workdir, first):
    del first
    config = small_config(**{"model.filters": 8})
    workdir.config_file.write_text(json.dumps(config.to_dict()))
    with pytest.raises(WorkdirError, match=r"checkpoints/4 cannot be restored .*another config"):
        load_run(workdir.path)


def test_convolutions_are_computed_in_this_machines_way_or_as_asked(tmp_path):
    """What a GPU was trained with may take minutes on a CPU."""

    def computation(trained, **asked):
        folder = Workdir(tmp_path / trained)
        if not folder.path.exists():
            save_run(folder, ACCURACIES, **{"model.conv": trained})
        run = load_run(folder.path, **asked)
        assert run.config.model.conv == trained
        norm = jax.tree.map(lambda rows: rows[0], run.meta.norm)
        images = np.zeros((2, *run.image_shape), np.float32)
        return str(jax.make_jaxpr(run.learner.forward)(run.meta.params, norm, images))

    assert computation("grouped") == computation("auto")
    assert computation("auto", conv="grouped") == computation("grouped", conv="grouped")
    assert computation("auto", conv="grouped") != computation("auto")
    for conv in ("fft", "shifted"):
        with pytest.raises(ConfigError, match=rf"^conv is '{conv}'.*auto, xla, patches"):
            computation("auto", conv=conv)


def test_a_run_of_a_removed_convolution_can_be_loaded(workdir, first):
    stored = json.loads(workdir.config_file.read_text())
    stored["model"]["conv"] = "pallas"
    workdir.config_file.write_text(json.dumps(stored))
    run = load_run(workdir.path, epoch="latest")
    assert run.config.model.conv == "auto"
    assert_is(run, at(first, run.step))


@pytest.mark.slow
def test_a_loaded_run_scores_what_its_test_did(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())
    workdir = Workdir(tmp_path / "run")
    fields = {"train.epochs": 2, "evaluation.ensemble": 2, "norm.eval_statistics": "support"}
    commands.train(small_config("maml+ca", **fields), workdir)
    ensemble, best = workdir.results()["test"]
    assert (ensemble.model, best.model) == ("ensemble", "best")
    run = load_run(workdir.path)
    assert [run.epoch] == workdir.results()["best_epochs"][:1]
    experiment = dataclasses.replace(small_experiment("maml+ca", **fields), learner=run.learner)
    evaluate = jitted_evaluator(experiment, "test", ["support"], every_step=True)
    found = evaluate(run.meta, run.batch_stats, experiment.tasks["test"])
    scores = score(found["support"])
    assert scores.accuracy_per_step == best.accuracy_per_step
    assert scores.loss == pytest.approx(best.loss, abs=1e-6)
