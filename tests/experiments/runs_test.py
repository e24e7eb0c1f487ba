"""The paper's experiments as data: every run is a valid configuration under a name of its own."""

import pathlib
import runpy

import pytest

from experiments.paper.runs import LISTS, METHODS, load_runs
from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config_of(run):
    config = runpy.run_path(str(CONFIGS / f"{run.data}.py"))["get_config"](run.argument)
    config.update_from_flattened_dict(dict(run.fields))
    return config


@pytest.mark.parametrize("protocol", ["", "paper", "released", "short"])
@pytest.mark.parametrize("name", LISTS)
def test_every_run_is_a_valid_configuration_with_a_name_of_its_own(name, protocol):
    if name == "figure1" and protocol != "":
        pytest.skip("has one protocol")
    runs = load_runs(name, protocol)
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        config = config_of(run)
        config_lib.validate(config)
        task = (config.task.way, config.task.shot, config.train.inner_steps)
        assert task == (run.way, run.shot, run.steps)
        assert (config.method, config.protocol, config.seed) == (run.method, run.protocol, run.seed)


def test_tables_have_the_papers_rows():
    counts = {name: len(load_runs(name, "paper")) for name in LISTS if name.startswith("table")}
    assert counts == {"table1": 2 * 7 * 3, "table2": 2 * 6 * 3, "table4": 2 * 2 * 3}
    assert {run.method for run in load_runs("table1", "")} == set(METHODS)


def test_the_released_protocol_has_neither_annealing_to_add():
    """It never anneals the order, and always the outer rate."""
    found = {run.method for run in load_runs("table1", "released")}
    assert found == set(METHODS) - {"maml+da", "maml+ca"}


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="--protocol is 'long'; it must be one of none, paper"):
        load_runs("table1", "long")


def test_figure_1_scales_the_papers_annealing_to_3000_steps():
    paper = runpy.run_path(str(CONFIGS / "omniglot.py"))["get_config"]().train
    for run in load_runs("figure1", ""):
        config = config_of(run)
        assert config_lib.total_steps(config) == 3000
        assert not config.model.max_pool
        for field in ("first_order_epochs", "multi_step_epochs"):
            scaled = round(paper[field] * config.train.epochs / paper.epochs)
            assert config.train[field] == (scaled if run.method == "maml++" else 0)


def test_seeds_and_protocol_choose():
    assert {run.seed for run in load_runs("table4", "short", [1])} == {1}
    assert {run.protocol for run in load_runs("table4", "short")} == {"short"}


def test_a_file_has_a_run_a_line(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text(
        "# comment\n\nomniglot:way=20,method=maml,protocol=short,seed=3  # why\n"
        "mini_imagenet:shot=5,steps=2 warm inner.learning_rate=0.1 train.epochs=1\n"
        "quickstart:method=anil,seed=1\n"
    )
    plain, varied, quick = load_runs(str(path), "")
    assert plain.name == "omniglot-20way-1shot-maml-short-seed3"
    assert varied.name == "mini_imagenet-5way-5shot-2steps-warm-maml++-paper-seed0"
    assert varied.flags == [
        "--config=configs/mini_imagenet.py:way=5,shot=5,method=maml++,protocol=paper,seed=0,steps=2",
        "--config.inner.learning_rate=0.1",
        "--config.train.epochs=1",
    ]
    assert varied.fields == {"inner.learning_rate": 0.1, "train.epochs": 1}
    assert quick.flags == ["--config=configs/quickstart.py:method=anil,seed=1"]
    assert (quick.name, quick.protocol) == ("quickstart-5way-1shot-anil-none-seed1", "none")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("omniglot:ways=5", "no argument 'ways'"),
        ("omniglot:steps=2", "no argument 'steps'"),
        ("omniglot:way=5 train.epochs=1", "a name for the variant"),
        ("omniglot:way=5 warm epochs", "a name for the variant"),
        ("omniglot:way=5 warm train.epoch=1", r"train\.epochs"),
        ("omniglot:way=5 warm train.epochs=few", "'few' is no value of train.epochs"),
    ],
)
def test_a_line_that_is_no_run_is_refused(tmp_path, line, message):
    path = tmp_path / "runs.txt"
    path.write_text(line)
    with pytest.raises(ConfigError, match=message):
        load_runs(str(path), "")


def test_two_runs_of_one_name_are_refused(tmp_path):
    path, run = tmp_path / "runs.txt", "omniglot:method=maml,protocol=short strided"
    path.write_text(f"{run} model.max_pool=False\n" * 2)
    assert len(load_runs(str(path), "")) == 1
    path.write_text(f"{run} model.max_pool=False\n{run} model.filters=32\n")
    with pytest.raises(ConfigError, match=r"two runs are called omniglot-.*-strided-maml-short"):
        load_runs(str(path), "")


def test_an_unknown_list_names_the_known():
    with pytest.raises(ConfigError, match="'table9'; it must be a file, or one of table1"):
        load_runs("table9", "")
