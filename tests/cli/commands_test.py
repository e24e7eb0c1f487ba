"""Whole small runs: train, resume, finish, evaluate again, refuse; and what they leave on disk."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.cli import commands
from mamlpp_jax.data.dataset import Dataset, fingerprint
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.training import final_evaluation, trainer as train_module
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import build
from tests.helpers.refusals import refused
from tests.helpers.small_runs import SIZE, patterns, small_config

RESULT_KEYS = [
    "experiment",
    "method",
    "seed",
    "steps",
    "finished",
    "commit",
    "hardware",
    "config",
    "best_epochs",
    "test",
]
ROW_KEYS = [
    "model",
    "train_statistics",
    "eval_statistics",
    "way",
    "shot",
    "inner_steps",
    "tasks",
    "accuracy",
    "ci95",
    "accuracy_per_step",
]


# In one process, so that the finished run is made once.
pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(autouse=True)
def _use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of MAML++ that other tests look at or copy."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        compiled = []
        original = train_module.compiled_train_steps

        def remember(*args):
            compiled.append(original(*args))
            return compiled[-1]

        patch.setattr(train_module, "compiled_train_steps", remember)
        commands.train(small_config(**{"norm.eval_statistics": "batch,support"}), workdir)
    return workdir, compiled


def test_mamlpp_compiles_exactly_three_train_functions(finished):
    _, compiled = finished
    assert [function._cache_size() for function in compiled] == [3]


def test_results_have_the_documented_keys(finished):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert list(results) == RESULT_KEYS
    assert results["finished"] is True
    assert results["steps"] == 6
    assert results["config"] == json.loads((workdir / "config.json").read_text())
    assert len(results["test"]) == 4
    for row in results["test"]:
        assert set(ROW_KEYS) <= set(row)
        assert 0 <= row["accuracy"] <= 1
        assert len(row["accuracy_per_step"]) == 3
    assert [row["model"] for row in results["test"]] == ["ensemble", "best"] * 2
    assert {row["eval_statistics"] for row in results["test"]} == {"batch", "support"}


def test_metrics_have_one_line_per_outer_step_and_one_per_validation(finished):
    workdir, _ = finished
    rows = read_metrics(workdir)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in steps] == [0, 0, 1, 1, 2, 2]
    assert set(steps[0]) == {"step", "epoch", "loss", "accuracy", "learning_rate", "grad_norm"}
    rates = [row["learning_rate"] for row in steps]
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    validations = [row for row in rows if "val_accuracy" in row]
    assert [row["step"] for row in validations] == [2, 4, 6]
    assert validations[0]["val_accuracy"] == validations[0]["val_accuracy_batch"]
    assert "val_accuracy_support" in validations[0]


def test_figures_and_page_are_there(finished):
    workdir, _ = finished
    for name in ("learning_curves", "accuracy_per_inner_step", "inner_rates", "episode"):
        assert (workdir / f"{name}.png").stat().st_size > 1000
    page = (workdir / "results.md").read_text()
    assert "episode.png" in page
    assert "support" in page


def test_a_finished_run_only_reports(finished, monkeypatch, capsys):
    workdir, _ = finished
    before = (workdir / "results.json").read_bytes()
    monkeypatch.setattr(commands, "load_dataset", lambda data: pytest.fail("data were loaded"))
    commands.train(small_config(**{"norm.eval_statistics": "batch,support"}), workdir)
    assert "batch/support" in capsys.readouterr().out
    assert (workdir / "results.json").read_bytes() == before


def state_of(workdir, config):
    program = build(config, patterns())
    with Checkpoints(workdir, config.evaluation.ensemble) as checkpoints:
        return jax.device_get(checkpoints.restore(checkpoints.latest_step(), program.init_state()))


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_stopped_run_ends_where_the_uninterrupted_one_does(
    finished, tmp_path, monkeypatch, stop_after
):
    """Stopped after a step and started again, also with another dispatch size; bit for bit."""
    config = small_config(
        **{
            "norm.eval_statistics": "batch,support",
            "checkpoint.every_minutes": 1e-9,
            "compute.steps_per_dispatch": 1,
        }
    )
    original = train_module._Loop._collect

    def stop(self, plan, pending, started):
        if pending[0] >= stop_after:
            raise _StoppedError
        return original(self, plan, pending, started)

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Loop, "_collect", stop)
        with pytest.raises(_StoppedError):
            commands.train(config, tmp_path)
    with Checkpoints(tmp_path, 3) as checkpoints:
        assert 0 < checkpoints.latest_step() <= stop_after
    config.compute.steps_per_dispatch = 0
    commands.train(config, tmp_path)
    whole, _ = finished
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for a, b in zip(
        jax.tree.leaves(state_of(tmp_path, config)),
        jax.tree.leaves(state_of(whole, config)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    results = [workdir_lib.read_results(path) for path in (tmp_path, whole)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["best_epochs"] == results[1]["best_epochs"]


def test_an_evaluation_keeps_where_the_run_was_trained(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    results = workdir_lib.read_results(workdir)
    results["commit"], results["hardware"] = "abc", {"device": "another machine"}
    (workdir / "results.json").write_text(json.dumps(results))
    episode = (workdir / "episode.png").read_bytes()
    config = commands.resolve_config("evaluate", None, workdir, commands.Overrides())
    assert config.compute.devices == 0  # of this machine, not the stored 1
    commands.evaluate(config, workdir, commands.Overrides(shot=2, statistics="batch"))
    after = workdir_lib.read_results(workdir)
    for key in ("commit", "hardware", "config", "best_epochs"):
        assert after[key] == results[key]
    assert len(after["test"]) == len(results["test"]) + 2
    assert (workdir / "episode.png").read_bytes() == episode
    commands.evaluate(config, workdir, commands.Overrides(way=4, inner_steps=3, statistics="batch"))
    page = (workdir / "results.md").read_text()
    assert "Trained for 3 ways: more ways" in page
    assert "Trained for 2 inner steps" in page


def test_evaluation_under_other_conditions_adds_rows(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    config = workdir_lib.read_config(workdir)
    before = workdir_lib.read_results(workdir)["test"]
    for overrides in (
        commands.Overrides(way=2, shot=2, statistics="running"),
        commands.Overrides(way=4, inner_steps=4, statistics="support"),
    ):
        commands.evaluate(config, workdir, overrides)
    rows = workdir_lib.read_results(workdir)["test"]
    assert rows[: len(before)] == before
    fewer, more = rows[len(before)], rows[len(before) + 2]
    assert (fewer["way"], fewer["shot"], fewer["eval_statistics"]) == (2, 2, "running")
    assert (more["way"], more["inner_steps"], len(more["accuracy_per_step"])) == (4, 4, 5)
    commands.evaluate(config, workdir, commands.Overrides(way=2, shot=2, statistics="running"))
    assert len(workdir_lib.read_results(workdir)["test"]) == len(rows)


def other_data(name="image_folder", channels=1):
    """Uneven classes of another data set with the image shape of the run."""
    sizes = np.array([5, 9, 7, 6, 8, 5, 9, 7, 6, 8], np.int32)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (sizes.sum(), SIZE, SIZE, channels), dtype=np.uint8)
    return Dataset(name, images, tuple(f"own{i}" for i in range(10)), sizes)


def other_config(**fields):
    config = small_config("maml")
    config.data.name, config.data.manual_dir = "image_folder", "/somewhere/birds"
    config.data.train_classes = config.data.val_classes = config.data.test_classes = 0
    config.data.split_fractions = "0.2,0.2,0.6"
    config.data.normalize = "imagenet"  # of no account: the run's own decides
    config.update_from_flattened_dict(fields)
    return config


def test_a_run_is_tested_on_another_data_set(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    asked = []
    monkeypatch.setattr(commands, "load_dataset", lambda data: asked.append(data) or other_data())
    before = workdir_lib.read_results(workdir)["test"]
    overrides = commands.Overrides(
        statistics="batch", shot=2, data_config=other_config(**{"data.device_limit_mib": 0})
    )
    for _ in range(2):  # the second time replaces the rows
        commands.evaluate(workdir_lib.read_config(workdir), workdir, overrides)
    assert {data.name for data in asked} == {"image_folder"}
    results = workdir_lib.read_results(workdir)
    assert results["test"][: len(before)] == before
    new = results["test"][len(before) :]
    label = f"image_folder:birds {fingerprint(other_data())[:8]}"
    assert [(row["data"], row["model"], row["shot"]) for row in new] == [
        (label, "ensemble", 2),
        (label, "best", 2),
    ]
    assert results["config"]["data"]["name"] == "glyphs"
    page = (workdir / "results.md").read_text()
    assert f"| {label} | ensemble |" in " ".join(page.split())
    assert "| the run's | ensemble |" in " ".join(page.split())
    assert "Trained on glyphs: tested also on the test classes of other data" in page
    # Rows of other data do not make a run finished.
    assert not final_evaluation.is_tested({**results, "test": new}, small_config())


def changed_data(what):
    """The run's data, after something happened to them."""
    data = patterns()
    if what == "pixel":
        data.images[0, 0, 0] ^= 1
        return data
    order = np.roll(np.arange(data.num_classes), 1)
    names = tuple(f"{i}{data.class_names[c]}" for i, c in enumerate(order))
    return dataclasses.replace(data, class_names=tuple(sorted(names)))


@pytest.mark.parametrize("what", ["pixel", "names"])
def test_a_run_whose_data_changed_is_neither_continued_nor_evaluated(
    finished, tmp_path, monkeypatch, what
):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (workdir / "results.json").unlink()
    config = workdir_lib.read_config(workdir)
    monkeypatch.setattr(commands, "load_dataset", lambda data: changed_data(what))
    for command in (
        lambda: commands.train(config, workdir),
        lambda: commands.evaluate(config, workdir, commands.Overrides()),
        lambda: commands.dry_run(config, workdir),
    ):
        with refused(workdir, "belongs to a run on other pictures"):
            command()


def test_a_run_whose_classes_are_split_otherwise_is_not_continued(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    noted = json.loads((workdir / "data.json").read_text())
    assert sorted(noted["classes"]) == ["test", "train", "val"]
    noted["classes"]["test"].reverse()
    (workdir / "data.json").write_text(json.dumps(noted))
    (workdir / "results.json").unlink()
    config = workdir_lib.read_config(workdir)
    with refused(workdir, "other classes in its test split"):
        commands.train(config, workdir)
    with refused(workdir, "other classes in its test split"):
        commands.evaluate(config, workdir, commands.Overrides())


@pytest.mark.parametrize(
    ("fields", "channels", "said"),
    [
        ({"data.image_size": 20}, 1, r"add --data_config\.data\.image_size=16"),
        ({}, 3, r"have 3 channel\(s\), but the run was trained on images of 1"),
        ({"task.way": 3, "data.split_fractions": "0.5,0.4,0.1"}, 1, r"has 1 classes"),
    ],
)
def test_other_data_that_do_not_fit_are_refused(finished, monkeypatch, fields, channels, said):
    monkeypatch.setattr(commands, "load_dataset", lambda data: other_data(channels=channels))
    config = workdir_lib.read_config(finished[0])
    overrides = commands.Overrides(data_config=other_config(**fields))
    with refused(finished[0], said):
        commands.evaluate(config, finished[0], overrides)


def test_other_data_are_for_an_evaluation_only():
    with pytest.raises(ConfigError, match="--data_config change an evaluation only"):
        commands.resolve_config(
            "train", small_config(), None, commands.Overrides(data_config=other_config())
        )


def test_evaluating_what_was_never_trained_makes_no_folder(tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(WorkdirError, match=r"config\.json does not exist"):
        commands.resolve_config("evaluate", None, missing, commands.Overrides())
    with pytest.raises(WorkdirError, match=r"config\.json does not exist"):
        commands.evaluate(small_config(), missing, commands.Overrides())
    assert not missing.exists()


def test_more_classes_than_the_test_split_has_are_refused_in_evaluation(finished):
    config = workdir_lib.read_config(finished[0])
    with pytest.raises(ConfigError, match=r"task\.way is 5, but the test split .* has 4 classes"):
        commands.evaluate(config, finished[0], commands.Overrides(way=5))


def test_dry_run_prints_everything_and_writes_nothing(tmp_path, capsys):
    commands.dry_run(small_config(), tmp_path / "run")
    text = capsys.readouterr().out
    for part in (
        "3x3x1x4",
        "all meta-parameters",
        "MiB",
        "order 1, multi-step",
        "order 2, last-step",
    ):
        assert part in text
    assert "epochs 1-1 (outer steps 3-4): order 2, multi-step loss" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "method", ["maml", "maml+msl", "maml+da", "maml+bnrs+bnwb", "maml+lslr", "maml+ca"]
)
def test_every_method_of_table_1_takes_steps(tmp_path, method):
    fields = {"train.epochs": 1, "norm.eval_statistics": "batch"}
    program = build(small_config(method, **fields), patterns())
    with Checkpoints(tmp_path, 3) as checkpoints:
        train_module.train(program, workdir_of(tmp_path, program.config), checkpoints)
        assert checkpoints.latest_step() == 2
    losses = [row["loss"] for row in read_metrics(tmp_path) if "loss" in row]
    assert len(losses) == 2
    assert np.all(np.isfinite(losses))


def workdir_of(path, config):
    workdir_lib.claim(path, config)
    return path


def test_a_shorter_test_than_asked_for_is_not_finished(finished):
    results = workdir_lib.read_results(finished[0])
    asked = small_config(**{"norm.eval_statistics": "batch,support"})
    assert final_evaluation.is_tested(results, asked)
    assert not final_evaluation.is_tested({**results, "finished": False}, asked)
    assert not final_evaluation.is_tested(
        results, small_config(**{"norm.eval_statistics": "running"})
    )


def test_hosts_may_have_their_data_in_different_folders():
    def on_host(folder, **fields):
        made = []
        for config in (small_config(), other_config(**fields)):
            for name in ("tfds_dir", "manual_dir", "cache_dir"):
                config.data[name] = folder
            made.append(config)
        return commands.to_compare(made[0], commands.Overrides(way=2, data_config=made[1]))

    assert on_host("/here") == on_host("/there")
    assert on_host("/here") != on_host("/here", **{"data.normalize": "none"})
    json.dumps(on_host("/here"))
