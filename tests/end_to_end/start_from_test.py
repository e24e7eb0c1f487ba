"""Starting from trained weights: what the log says of each part equals what the arrays say."""

import shutil

import jax
import numpy as np
import pytest
from absl import logging

import mamlpp_jax as maml
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.start import read_start
from mamlpp_jax.inference.trained_run import load_best
from mamlpp_jax.training import trainer
from mamlpp_jax.training.experiment import Experiment
from tests.helpers.small_runs import patterns, small_config, small_experiment

SHORT = {"train.epochs": 1, "evaluation.tasks": 2}


@pytest.fixture(autouse=True)
def use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A finished run, its copy as a saved model, and what it learned."""
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        run = maml.train(small_config(**SHORT), folder / "run")
    save_model(folder / "saved", from_runs(load_best(folder / "run", 1)))
    kept = folder / "kept"
    save_model(kept, from_runs(load_best(folder / "run", 1)))
    shutil.copy(folder / "run" / "results.json", kept)
    return folder, run.members[0]


def start(config, caplog):
    """The first state of a run, and the log's sentence about it by part."""
    experiment = small_experiment(config.method)
    experiment = Experiment(**{**vars(experiment), "config": config})
    experiment = Experiment(**{**vars(experiment), "start": read_start(config, None, False)})
    with caplog.at_level(logging.converter.ABSL_TO_STANDARD[logging.INFO], "absl"):
        state = experiment.init_run_state()
    (line,) = [r.getMessage() for r in caplog.records if "starting from" in r.getMessage()]
    caplog.clear()
    said = dict(part.split(": ", 1) for part in line.partition(": ")[2].split("; "))
    return state, said


def same(a, b):
    leaves = [jax.tree.leaves(tree) for tree in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(
        np.array_equal(x, y) for x, y in zip(*leaves, strict=True)
    )


def without_head(params):
    return {name: layer for name, layer in params.items() if name != "linear"}


@pytest.mark.parametrize(
    "source", ["run", *(pytest.param(name, marks=pytest.mark.slow) for name in ("saved", "kept"))]
)
@pytest.mark.parametrize(
    ("method", "fields", "head", "inner"),
    [
        ("maml++", {}, "taken", "taken"),
        ("maml++", {"task.way": 4}, "fitted from 3 to 4 ways", "taken"),
        ("mamlpp+sharedhead", {}, "new, since one of the two is shared", "taken"),
        ("maml++", {"train.inner_steps": 3}, "taken", "new"),
        ("maml", {}, "taken", "nothing"),
    ],
)
def test_the_log_says_what_the_arrays_say(sources, caplog, source, method, fields, head, inner):
    folder, trained = sources
    config = small_config(method, **fields, **{"train.start_from": str(folder / source)})
    fresh = small_experiment(method, **fields).init_run_state()
    state, said = start(config, caplog)
    assert said["backbone"] == "taken"
    assert same(without_head(state.meta.params), without_head(trained.meta.params))
    assert said["head"] == head
    heads = [params["linear"] for params in (state.meta.params, trained.meta.params)]
    assert same(*heads) == (head == "taken")
    if head.startswith("new"):
        assert same(state.meta.params["linear"], fresh.meta.params["linear"])
    if head.startswith("fitted"):
        fitted = maml.with_ways(trained.meta, 4).params["linear"]
        assert same(state.meta.params["linear"], fitted)
    assert said.get("learned by the inner optimizer", "nothing") == inner
    if inner == "taken":
        assert same(state.meta.inner, trained.meta.inner)
    else:
        assert same(state.meta.inner, fresh.meta.inner)
    steps = config.train.inner_steps
    for part, text, mine, theirs in (
        ("norm", said["batch-norm scale and bias"], state.meta.norm, trained.meta.norm),
        ("stats", said["running statistics"], state.batch_stats, trained.batch_stats),
    ):
        if method == "maml":
            assert text == "those of the last of 2 steps, now shared"
            assert same(mine, jax.tree.map(lambda leaf: leaf[-1], theirs))
        elif steps == 3:
            assert text == "taken of 2 steps, the last repeated"
            assert same(mine, jax.tree.map(lambda leaf: leaf[np.array([0, 1, 1])], theirs)), part
        else:
            assert text == "taken"
            assert same(mine, theirs)
    assert said["outer optimizer"] == "new"
    assert int(state.step) == 0


@pytest.mark.slow
def test_shared_batch_norm_is_repeated_over_the_steps(tmp_path, caplog):
    plain = maml.train(small_config("maml", **SHORT), tmp_path / "plain")
    config = small_config(**{"train.start_from": str(tmp_path / "plain")})
    state, said = start(config, caplog)
    assert said["batch-norm scale and bias"] == "repeated over 2 steps"
    assert said["learned by the inner optimizer"] == "new"
    theirs = plain.members[0].meta.norm
    assert same(state.meta.norm, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), theirs))


def test_what_the_start_reaches_is_said_first_and_changes_nothing(sources, caplog, monkeypatch):
    folder, _ = sources
    config = small_config(**SHORT, **{"train.start_from": str(folder / "run")})
    records = []

    class Keep(maml.Callback):
        def on_epoch(self, record):
            records.append(record["val_accuracy"])

    with caplog.at_level(logging.converter.ABSL_TO_STANDARD[logging.INFO], "absl"):
        reported = maml.train(config, callbacks=[Keep()])
    said = [r.getMessage() for r in caplog.records if "validation accuracy" in r.getMessage()]
    assert said[0].startswith("before training: validation accuracy")
    assert len(records) == len(said) - 1 == config.train.epochs
    monkeypatch.setattr(trainer._Loop, "report_start", lambda *_: None)
    assert same(maml.train(config).members[0].meta, reported.members[0].meta)


@pytest.mark.slow
def test_a_start_needs_no_folder_afterwards_and_is_told_apart_by_its_weights(
    sources, tmp_path, monkeypatch
):
    folder, _ = sources
    moved = shutil.copytree(folder / "saved", tmp_path / "weights")
    config = small_config(**SHORT, **{"train.start_from": str(moved)})

    def killed(*_):
        raise OSError("killed before the first checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Loop, "run", killed)
        with pytest.raises(OSError, match=r"killed"):
            maml.train(config, tmp_path / "new")
    whole = maml.train(config, tmp_path / "whole")
    shutil.rmtree(moved)
    outcome = maml.train(config, tmp_path / "new")
    assert same(outcome.members[0].meta, whole.members[0].meta)
    started = Workdir(tmp_path / "new").results()["started_from"]
    assert started["name"] == "weights"
    assert len(started["sha256"]) == 64
    longer = small_config(**{**SHORT, "train.epochs": 2, "train.start_from": str(moved)})
    with pytest.raises(MamlppError, match=r"is finished: to train on .*config.train.start_from="):
        maml.train(longer, tmp_path / "new")


@pytest.mark.slow
def test_other_weights_or_none_are_refused_for_a_run_that_goes_on(sources, tmp_path):
    folder, _ = sources

    class Stop(maml.Callback):
        def on_epoch(self, record):
            raise InterruptedError

    def config(source):
        fields = {"train.start_from": str(source), "checkpoint.every_minutes": 1e-9}
        return small_config(**fields)

    with pytest.raises(InterruptedError):
        maml.train(config(folder / "run"), tmp_path / "new", [Stop()])
    maml.train(small_config(**SHORT, seed=5), tmp_path / "other")
    with pytest.raises(MamlppError, match=r"started from other weights"):
        maml.train(config(tmp_path / "other"), tmp_path / "new")
    with pytest.raises(MamlppError, match=r"belongs to a run"):
        maml.train(config(""), tmp_path / "new")
    with pytest.raises(InterruptedError):
        maml.train(config(folder / "saved"), tmp_path / "new", [Stop()])


def test_another_backbone_or_no_model_is_refused_by_name(sources, tmp_path):
    folder, _ = sources
    wide = small_config(**{"model.filters": 6, "train.start_from": str(folder / "run")})
    with pytest.raises(MamlppError, match=r"start_from: conv0/bias has the shape \(4,\) there"):
        maml.train(wide)
    with pytest.raises(MamlppError, match=r"start_from is .*There is no trained model"):
        maml.train(small_config(**{"train.start_from": str(tmp_path / "nothing")}))
