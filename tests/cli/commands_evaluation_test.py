"""Testing a finished run again: under other conditions, on other data, and when that is refused."""

import copy
import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.cli.evaluation_flags import naming_flags
from mamlpp_jax.data.dataset import Dataset, fingerprint
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training import final_evaluation
from tests.helpers.damage import contents, flip_a_bit
from tests.helpers.refusals import compilations, refused
from tests.helpers.small_runs import SIZE, patterns, small_config

pytestmark = [pytest.mark.xdist_group("commands"), pytest.mark.usefixtures("use_patterns")]


def test_an_evaluation_keeps_where_the_run_was_trained(copied):
    results = json.loads(copied.results_file.read_text())
    results["commit"], results["hardware"] = "abc", {"device": "another machine"}
    copied.results_file.write_text(json.dumps(results))
    episode = (copied.path / "episode.png").read_bytes()
    config = commands.resolve_config("evaluate", None, copied, {})
    assert config.compute.devices == 0  # of this machine, not the stored 1
    commands.evaluate(config, copied, {"shot": 2, "statistics": "batch"})
    after = json.loads(copied.results_file.read_text())
    for key in ("commit", "hardware", "config", "best_epochs"):
        assert after[key] == results[key]
    assert len(after["test"]) == len(results["test"]) + 2
    assert (copied.path / "episode.png").read_bytes() == episode
    commands.evaluate(config, copied, {"way": 4, "inner_steps": 3, "statistics": "batch"})
    page = (copied.path / "results.md").read_text()
    assert "Trained for 3 ways: more ways" in page
    assert "Trained for 2 inner steps" in page


def test_evaluation_under_other_conditions_adds_tests(copied):
    config, before = copied.config(), copied.results()["test"]
    fewer_ways = {"way": 2, "shot": 2, "statistics": "running"}
    commands.evaluate(config, copied, fewer_ways)
    commands.evaluate(config, copied, {"way": 4, "inner_steps": 4, "statistics": "support"})
    tests = copied.results()["test"]
    assert tests[: len(before)] == before
    fewer, more = tests[len(before)], tests[len(before) + 2]
    assert (fewer.way, fewer.shot, fewer.eval_statistics) == (2, 2, "running")
    assert (more.way, more.inner_steps, len(more.accuracy_per_step)) == (4, 4, 5)
    commands.evaluate(config, copied, fewer_ways)
    assert len(copied.results()["test"]) == len(tests)


def test_the_runs_own_conditions_give_the_same_numbers_again(copied):
    before = copied.results()["test"]
    commands.evaluate(copied.config(), copied, {})
    assert copied.results()["test"] == before


def test_a_run_that_is_finished_during_its_evaluation_keeps_its_results(copied, monkeypatch):
    config, finished = copied.config(), copied.results_file.read_bytes()
    before, test = copied.results(), final_evaluation.run_test

    def finish(*arguments, **options):
        copied.results_file.write_bytes(finished)
        return test(*arguments, **options)

    monkeypatch.setattr(final_evaluation, "run_test", finish)
    copied.results_file.unlink()
    commands.evaluate(config, copied, {"shot": 2, "statistics": "batch"})  # of the final state
    assert copied.results()["test"][: len(before["test"])] == before["test"]
    assert len(copied.results()["test"]) == len(before["test"]) + 2
    copied.results_file.unlink()
    latest = max(int(path.name) for path in copied.checkpoints.iterdir())
    (copied.checkpoints / str(latest)).rename(copied.path / "not yet written")
    with pytest.raises(WorkdirError, match="was finished while an earlier state of it was tested"):
        commands.evaluate(config, copied, {"statistics": "batch"})
    assert copied.results_file.read_bytes() == finished


def test_errors_of_an_evaluation_advise_what_it_can_do(copied, monkeypatch):
    with refused(copied.path, r"--way is 99, .*use at most 4\.$"), naming_flags():
        commands.evaluate(copied.config(), copied, {"way": 99})
    monkeypatch.setattr(commands, "load_dataset", lambda data: other_data())
    other = other_config(**{"data.split_fractions": "0.2,0.2,0.6"})
    said = r"--way is 99, .* share of test in --data_config\.data\.split_fractions"
    with refused(copied.path, said), naming_flags(other_data=True):
        commands.evaluate(copied.config(), copied, {"way": 99}, other)


def test_an_evaluation_leaves_out_what_is_damaged_and_touches_no_checkpoint(copied, caplog):
    """A save may be under way in another process."""
    best_epochs = copied.results()["best_epochs"]
    flip_a_bit(copied.checkpoints / str(2 * (best_epochs[0] + 1)))
    unfinished = copied.checkpoints / "99.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_text("of another process")
    before = contents(copied.checkpoints)
    with caplog.at_level("WARNING", "absl"):
        commands.evaluate(copied.config(), copied, {"statistics": "batch"})
    assert f"checkpoints/{2 * (best_epochs[0] + 1)} is left out" in caplog.text
    assert contents(copied.checkpoints) == before
    assert not (copied.path / "damaged").exists()
    results = copied.results()
    assert results["best_epochs"] == best_epochs  # of the test after training
    tested = {(test.eval_statistics, test.model): test.epochs for test in results["test"]}
    assert tested["batch", "ensemble"] == best_epochs[1:]
    assert tested["batch", "best"] == best_epochs[1:2]
    assert tested["support", "ensemble"] == best_epochs
    assert "under `batch`, 3-way 1-shot, is of epoch(s)" in (copied.path / "results.md").read_text()


@pytest.mark.slow
def test_a_run_that_is_being_trained_gets_its_tests_and_nothing_else_changes(copied, caplog):
    """The trainer holds the lock and has a save under way."""
    copied.results_file.unlink()
    latest = copied.checkpoints / "6"
    latest.rename(copied.checkpoints / "6.orbax-checkpoint-tmp")
    before = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}
    with copied.only_writer():
        held = (copied.path / "lock").read_bytes()
        with caplog.at_level("WARNING", "absl"):
            commands.evaluate(copied.config(), copied, {"statistics": "batch"})
        commands.dry_run(copied.config(), copied)
        assert (copied.path / "lock").read_bytes() == held
    assert "not finished: its latest whole checkpoint is of outer step 4 of 6" in caplog.text
    results = copied.results()
    assert (results["finished"], results["steps"], len(results["test"])) == (False, 4, 2)
    after = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after if before.get(path) != after.get(path)}
    changed -= {"lock"}  # taken by this test
    assert changed <= {
        *("results.json", "results.md", "results.lock"),
        *("predictions.npz", "accuracy_by_class.csv"),
    }


def test_a_folder_that_cannot_be_written_is_refused_before_the_test(copied, monkeypatch):
    monkeypatch.setattr(workdir_lib.os, "access", lambda *_: False)
    monkeypatch.setattr(commands, "load_dataset", lambda data: pytest.fail("data were loaded"))
    with refused(copied.path, f"cannot write into {copied}"):
        commands.evaluate(copied.config(), copied, {})


def test_a_dry_run_describes_the_evaluation_that_is_asked_for(copied, capsys):
    compiled, before = compilations(), contents(copied.path)
    overrides = {"way": 4, "shot": 2, "inner_steps": 7, "tasks": 50, "statistics": "support"}
    commands.dry_run_evaluation(copied.config(), copied, overrides)
    text = capsys.readouterr().out
    for part in (
        f"workdir: {copied}, latest whole checkpoint after outer step 6 of 6",
        "data: those of the run",
        "test 4 classes",
        "4-way 2-shot: 8 support and 4 query images, 7 inner steps",
        "50 tasks; the ensemble of at most 3 best epochs, and the best one; statistics: support",
        "or more",
    ):
        assert part in text
    assert "Schedule" not in text
    assert (compilations(), contents(copied.path)) == (compiled, before)
    with refused(copied.path, r"task\.way is 7, but the test split"):
        commands.dry_run_evaluation(copied.config(), copied, {"way": 7})


def test_chosen_splits_stay_those_of_training_whatever_the_flags_say(copied):
    """Chosen for five ways, the test split would have five of the sixteen classes; for four it has four."""
    stored = copied.config()
    stored.data.train_classes = stored.data.val_classes = stored.data.test_classes = 0
    stored.data.split_fractions = ""
    copied.config_file.write_text(json.dumps(stored.to_dict()))
    config = copied.config()
    with refused(copied.path, r"task\.way is 5, but the test split .* has 4 classes"):
        commands.evaluate(config, copied, {"way": 5})
    commands.evaluate(config, copied, {"way": 4, "statistics": "batch"})
    assert copied.results()["test"][-1].way == 4


@pytest.mark.parametrize("what", ["pixel", "names"])
def test_a_run_whose_data_changed_is_neither_continued_nor_evaluated(copied, monkeypatch, what):
    copied.results_file.unlink()
    config = copied.config()
    monkeypatch.setattr(commands, "load_dataset", lambda data: changed_data(what))
    for command in (
        lambda: commands.train(config, copied),
        lambda: commands.evaluate(config, copied, {}),
        lambda: commands.dry_run(config, copied),
    ):
        with refused(copied.path, "belongs to a run on other images"):
            command()


def changed_data(what):
    """The run's data, after something happened to them."""
    data = patterns()
    if what == "pixel":
        data.images[0, 0, 0] ^= 1
        return data
    order = np.roll(np.arange(data.num_classes), 1)
    names = tuple(f"{i}{data.class_names[c]}" for i, c in enumerate(order))
    return dataclasses.replace(data, class_names=tuple(sorted(names)))


# --- Other data -----------------------------------------------------------------------------------


def other_data(channels=1):
    """Uneven classes of another data set with the image shape of the run."""
    sizes = np.array([5, 9, 7, 6, 8, 5, 9, 7, 6, 8], np.int32)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (sizes.sum(), SIZE, SIZE, channels), dtype=np.uint8)
    return Dataset("image_folder", images, tuple(f"own{i}" for i in range(10)), sizes)


def other_config(**fields):
    config = small_config("maml")
    config.data.name, config.data.manual_dir = "image_folder", "/somewhere/birds"
    config.data.train_classes = config.data.val_classes = config.data.test_classes = 0
    config.data.split_fractions = "0.2,0.2,0.6"
    config.data.normalize = "imagenet"  # of no account: the run's own decides
    config.update_from_flattened_dict(fields)
    return config


def test_a_run_is_tested_on_another_data_set(copied, monkeypatch, caplog):
    loaded = []
    monkeypatch.setattr(commands, "load_dataset", lambda data: loaded.append(data) or other_data())
    before = copied.results()["test"]
    elsewhere = other_config(**{"data.device_limit_mib": 0})
    given = copy.deepcopy(elsewhere)
    for _ in range(2):  # the second time replaces the tests
        overrides = {"statistics": "batch", "shot": 2}
        commands.evaluate(copied.config(), copied, overrides, elsewhere)
    assert elsewhere == given
    assert "trained on bright ink on black, and the images of image_folder are taken" in caplog.text
    assert {data.name for data in loaded} == {"image_folder"}
    results = copied.results()
    assert results["test"][: len(before)] == before
    new = results["test"][len(before) :]
    label = new[0].data
    assert re.fullmatch(r"image_folder:birds [0-9a-f]{8}", label)
    assert [(test.data, test.model, test.shot) for test in new] == [
        (label, "ensemble", 2),
        (label, "best", 2),
    ]
    assert results["config"]["data"]["name"] == "glyphs"
    page = " ".join((copied.path / "results.md").read_text().split())
    assert f"| {label} | ensemble |" in page
    assert "| the run's | ensemble |" in page
    assert "Trained on glyphs: tested also on the test classes of other data" in page
    # Tests on other data do not make a run finished.
    assert not final_evaluation.is_tested({**results, "test": new}, small_config())
    again = other_config(**{"data.split_fractions": "0.3,0.2,0.5"})
    commands.evaluate(copied.config(), copied, overrides, again)
    last = copied.results()["test"]
    assert last[:-2] == results["test"]  # of other classes, so they replace none
    assert last[-1].data != label


def test_classes_that_the_run_was_trained_on_are_no_other_data(copied, monkeypatch):
    recorded = json.loads(copied.data_file.read_text())
    own = copied.config()
    own.data.seed = own.data.seed + 1
    with refused(copied.path, r"--data_config has the run's images, .* trained on or chosen by \d"):
        commands.evaluate(copied.config(), copied, {}, own)
    monkeypatch.setattr(commands, "load_dataset", lambda data: other_data())
    assert recorded["sha256"] != fingerprint(other_data())


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
    with refused(finished.path, said):
        commands.evaluate(finished.config(), finished, {}, other_config(**fields))


# --- What is refused before anything is loaded ----------------------------------------------------


def test_evaluation_needs_a_trained_run(tmp_path):
    missing, empty = Workdir(tmp_path / "none"), Workdir(tmp_path / "empty")
    empty.claim(small_config())
    for config in (None, small_config()):
        with refused(tmp_path, "--mode=evaluate needs --workdir"):
            commands.resolve_config("evaluate", config, None, {})
    with refused(tmp_path, r"none/config\.json does not exist"):
        commands.resolve_config("evaluate", None, missing, {})
    with refused(tmp_path, r"none/config\.json does not exist"):
        commands.evaluate(small_config(), missing, {})
    with refused(tmp_path, "empty has no checkpoint; train it first"):
        commands.evaluate(small_config(), empty, {})
    assert not missing.path.exists()


def test_more_classes_than_the_test_split_has_are_refused(finished):
    with refused(finished.path, r"task\.way is 5, but the test split .* has 4 classes"):
        commands.evaluate(finished.config(), finished, {"way": 5})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"statistics": "batch,none"}, "norm.eval_statistics is 'batch,none'; choose one or"),
        ({"way": 1}, "task.way is 1"),
        ({"inner_steps": 0}, "train.inner_steps is 0"),
    ],
)
def test_conditions_that_cannot_be_are_refused(finished, overrides, said):
    with refused(finished.path, said):
        commands.evaluate(finished.config(), finished, overrides)


def test_evaluation_flags_are_not_for_training(tmp_path):
    with refused(tmp_path, "--way, --statistics change an evaluation only", "config.task.way=20"):
        overrides = {"way": 3, "statistics": "batch"}
        commands.resolve_config("train", small_config(), None, overrides)
    with refused(tmp_path, "--data_config change an evaluation only"):
        commands.resolve_config("train", small_config(), None, {}, other_config())


@pytest.mark.slow
def test_a_test_without_rotated_classes_stands_beside_the_runs_own(tmp_path):
    config = small_config("fomaml", **{"data.rotations": True, "train.epochs": 1})
    workdir = Workdir(tmp_path / "run")
    commands.train(config, workdir)
    for overrides in ({"rotated": False, "tasks": 6}, {"tasks": 6}, {"rotated": False}):
        commands.evaluate(config, workdir, overrides)
    told = [(test.rotated, test.tasks) for test in workdir.results()["test"][::2]]
    modes = len(config.norm.eval_statistics.split(","))
    assert told == [("", 4)] * modes + [("no", 6)] * modes + [("", 6)] * modes + [("no", 4)] * modes
    assert {row["rotated"] for row in csv.DictReader(workdir.by_class_file.open())} == {"", "no"}
    assert "| rotated classes |" in re.sub(" +", " ", (workdir.path / "results.md").read_text())


def test_a_flag_on_rotations_needs_a_run_that_has_them(finished):
    with refused(finished.path, "--rotated: .* leave the flag out"):
        commands.evaluate(finished.config(), finished, {"rotated": True})
