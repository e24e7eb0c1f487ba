"""Whose a working directory is, what it is called, what its files hold, and when it is refused."""

import dataclasses
import json
import os

import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from tests.helpers.refusals import refused
from tests.helpers.sample_results import RESULT, ROW
from tests.helpers.small_runs import small_config

CLASSES = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.fixture
def claimed(tmp_path):
    """A run's folder with a checkpoint, which binds it to its configuration."""
    workdir = Workdir(tmp_path / "run")
    workdir.claim(small_config())
    (workdir.checkpoints / "2").mkdir(parents=True)
    return workdir


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that was ended before its first checkpoint."""
    workdir = Workdir(tmp_path / "begun")
    workdir.claim(small_config())
    workdir.record_data("f00", 1, CLASSES)
    (workdir.path / "metrics.jsonl").write_text("{}\n")
    (workdir.path / "lock").write_text("")
    (workdir.checkpoints / "2.orbax-checkpoint-tmp-1").mkdir(parents=True)
    return workdir


def test_claiming_makes_the_folder_and_its_configuration(tmp_path):
    workdir = Workdir(str(tmp_path / "a" / "b"))
    workdir.claim(small_config())
    stored = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert stored == small_config().to_dict()
    assert workdir.config().to_dict() == small_config().to_dict()
    assert str(workdir) == str(tmp_path / "a" / "b")


def test_another_configuration_is_refused_naming_every_differing_field(tmp_path, claimed):
    other = small_config(**{"train.epochs": 7, "inner.learning_rate": 0.5})
    for look in (claimed.check_owner, claimed.claim):
        with refused(
            tmp_path,
            f"workdir {claimed} belongs to a run of another configuration",
            "inner.learning_rate: 0.5 here, 0.1 there; config.train.epochs: 7 here, 3 there",
            "another --workdir",
        ):
            look(other)


@pytest.mark.parametrize(
    "fields",
    [
        {"compute.devices": 2, "compute.tasks_per_chunk": 1, "compute.steps_per_dispatch": 1},
        {"log.tensorboard": True, "log.every_seconds": 1.0},
        {"checkpoint.every_minutes": 1.0},
        {"data.cache_dir": "/a", "data.manual_dir": "/b", "data.tfds_dir": "/c"},
    ],
)
def test_what_does_not_change_the_run_may_change(claimed, fields):
    config = small_config(**fields)
    claimed.check_owner(config)
    claimed.claim(config)
    assert claimed.config().to_dict() == config.to_dict()


def test_a_new_folder_is_anyones(tmp_path):
    Workdir(tmp_path).check_owner(small_config())
    Workdir(tmp_path / "none").check_owner(small_config())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    for name in ("notes.txt", "src", ".git", "setup.py"):
        (tmp_path / name).write_text("mine")
    workdir = Workdir(tmp_path)
    for look in (workdir.check_owner, workdir.claim):
        with refused(
            tmp_path,
            r"is not a run's folder: it holds \.git, notes\.txt, setup\.py and 1 more, but no config",
            "must be a new or empty folder",
        ):
            look(small_config())


@pytest.mark.parametrize(
    "stored", [{}, {"format": "a model"}, {**small_config().to_dict(), "x": 1}]
)
def test_another_programs_configuration_is_not_replaced(tmp_path, stored):
    workdir = Workdir(tmp_path)
    workdir.config_file.write_text(json.dumps(stored))
    with refused(tmp_path, "belongs to a run of another configuration"):
        workdir.claim(small_config())


def test_what_a_cut_off_claim_left_is_no_hindrance(tmp_path):
    for name in ("lock", f".config.json.{32 * 'a'}.tmp"):
        (tmp_path / name).write_text("")
    Workdir(tmp_path).claim(small_config())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "lock"]


def test_a_run_without_a_checkpoint_gives_its_folder_to_another(begun, caplog):
    """As after a run that diverged or was killed, whose configuration was then corrected."""
    corrected = small_config(**{"train.learning_rate": 1e-4})
    begun.check_owner(corrected)
    begun.check_data("ba5", {"train": ["x"]})
    begun.claim(corrected)
    assert begun.config().to_dict() == corrected.to_dict()
    assert not begun.data_file.exists()
    assert not (begun.path / "metrics.jsonl").exists()
    (warning,) = caplog.messages
    for part in (
        f"workdir {begun} was begun with another configuration (config.train.learning_rate: 0.0001 here, "
        "0.001 there)",
        "no whole checkpoint",
        "Discarded: data.json, metrics.jsonl",
    ):
        assert part in warning


@pytest.mark.parametrize("work", ["checkpoints/2/state", "results.json"])
def test_a_checkpoint_or_results_keep_the_folder_to_their_run(begun, work):
    path = begun.path / work
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    with refused(begun.path, "belongs to a run of another configuration"):
        begun.claim(small_config(**{"train.learning_rate": 1e-4}))
    with refused(begun.path, "a run on other images"):
        begun.check_data("ba5", CLASSES)


def test_a_file_is_no_workdir(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with refused(tmp_path, f"workdir {path} is a file; it must be a folder"):
        Workdir(path).check_owner(small_config())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(tmp_path, "cannot make the workdir .*file/run"):
        Workdir(tmp_path / "file" / "run").claim(small_config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o500)
    with refused(tmp_path, str(folder), "write"):
        Workdir(folder).claim(small_config())


def test_a_name_that_is_too_long_is_refused(tmp_path):
    workdir = Workdir(tmp_path / ("x" * 300))
    for look in (lambda: workdir.check_owner(small_config()), workdir.config):
        with refused(tmp_path, "xxx.*(too long|File name)"):
            look()


@pytest.mark.parametrize("content", ["", "{", '{"train": ', "[1, 2]", "5", "null", "\x00"])
def test_a_broken_configuration_file_is_named(tmp_path, content):
    workdir = Workdir(tmp_path)
    workdir.config_file.write_text(content)
    for look in (lambda: workdir.check_owner(small_config()), workdir.config):
        with refused(tmp_path, r"config\.json (is not readable as JSON|holds a \w+)"):
            look()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 5}, "config.train is not a field"),
        ({"seed": "zero"}, "config.seed is 'zero'; it must be of type int"),
        ({"extra": 1}, "config.extra is not a field"),
        ({"method": "mamal"}, "method is 'mamal'"),
        ({"model": {}}, "config.model"),
    ],
)
def test_a_configuration_of_another_version_is_named(tmp_path, claimed, change, said):
    claimed.config_file.write_text(json.dumps({**small_config().to_dict(), **change}))
    with refused(tmp_path, r"config\.json does not fit this version: ", said):
        claimed.config()


def test_a_folder_without_a_run_has_no_configuration(tmp_path):
    with refused(tmp_path, r"none/config\.json does not exist; --workdir must be the folder of a"):
        Workdir(tmp_path / "none").config()


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path):
    (tmp_path / "checkpoints" / "400").mkdir(parents=True)
    with refused(tmp_path, str(tmp_path), r"holds checkpoints, but no config\.json"):
        Workdir(tmp_path).check_owner(small_config())


def test_claiming_removes_what_a_killed_writer_left(claimed):
    left = claimed.path / f".metrics.jsonl.{32 * 'a'}.tmp"
    others = [claimed.path / name for name in (".hidden", ".notes.tmp", "kept.tmp")]
    for path in (left, *others):
        path.write_text("")
    claimed.claim(small_config())
    assert not left.exists()
    assert all(path.exists() for path in others)


def test_the_folder_has_one_writer(claimed):
    with (
        claimed.only_writer(),
        refused(claimed.path.parent, f"{claimed} is in use by process {os.getpid()} on host"),
        Workdir(claimed.path).only_writer(),
    ):
        pass


def test_data_are_recorded_and_recognised(claimed):
    claimed.check_data("f00", CLASSES)  # nothing is recorded yet
    assert claimed.recorded_channels() == 0
    claimed.record_data("f00", 3, CLASSES)
    claimed.check_data("f00", CLASSES)
    claimed.check_data("f00", {"test": ("d",)})
    assert claimed.recorded_channels() == 3


def test_recorded_classes_are_given_back_for_the_same_images(claimed):
    assert claimed.recorded_classes("f00") == {}
    claimed.record_data("f00", 3, CLASSES)
    assert claimed.recorded_classes("f00") == CLASSES
    assert claimed.recorded_classes("ba5") == {}


def test_an_attempt_without_a_checkpoint_has_chosen_no_classes(begun):
    assert begun.recorded_classes("f00") == {}


def test_other_data_or_classes_are_refused(tmp_path, claimed):
    claimed.record_data("f00", 1, CLASSES)
    with refused(tmp_path, f"workdir {claimed} belongs to a run on other images"):
        claimed.check_data("ba5", CLASSES)
    with refused(tmp_path, "other classes in its val split"):
        claimed.check_data("f00", {**CLASSES, "val": ["e"]})


@pytest.mark.parametrize("content", ["{}", '{"channels": "three"}', '{"channels": null}'])
def test_channels_that_are_not_recorded(claimed, content):
    claimed.data_file.write_text(content)
    assert claimed.recorded_channels() == 0


@pytest.mark.parametrize("content", ["{", "[]"])
@pytest.mark.parametrize("name", ["data.json", "results.json"])
def test_a_broken_file_is_named(tmp_path, claimed, name, content):
    (claimed.path / name).write_text(content)
    look = claimed.recorded_channels if name == "data.json" else claimed.results
    with refused(tmp_path, name):
        look()


def results_of(*tests):
    return {"finished": True, "config": small_config().to_dict(), "test": list(tests)}


def test_results_are_read_as_they_were_written(claimed):
    assert claimed.results() is None
    elsewhere = dataclasses.replace(RESULT, data="birds 1234")
    claimed.write_results(results_of(RESULT, elsewhere), {})
    assert claimed.results() == results_of(RESULT, elsewhere)
    stored = json.loads(claimed.results_file.read_text())
    assert stored == results_of(ROW, {**ROW, "data": "birds 1234"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": None}, "lacks the run's configuration"),
        ({"config": {"task": [], "train": {}}}, "lacks the run's configuration"),
        ({"test": None}, "is not a list of objects"),
        ({"test": [5]}, "is not a list of objects"),
        ({"test": [{}]}, "has model=None"),
        ({"test": [{**ROW, "way": "3"}]}, "has way='3'"),
    ],
)
def test_results_that_no_run_wrote_are_refused(tmp_path, claimed, change, said):
    claimed.results_file.write_text(json.dumps({**results_of(ROW), **change}))
    with refused(tmp_path, r"results\.json does not fit this version: .*", said):
        claimed.results()


def test_the_default_workdir_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def name(**fields):
        return str(Workdir.default(small_config("maml+da", **{"seed": 3, **fields})))

    assert name().startswith("runs/small-maml+da-seed3-")
    assert name() == name(**{"compute.devices": 2, "log.tensorboard": True})
    changes = {"train.epochs": 4, "data.seed": 1, "task.shot": 2}
    assert len({name(), *(name(**{field: value}) for field, value in changes.items())}) == 4
    assert not (tmp_path / "runs").exists()
