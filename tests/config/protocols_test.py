"""The numbers of every protocol, and how protocols and methods go together."""

import pathlib
import runpy

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
METHODS = ["maml", "maml+msl", "maml+bnrs+bnwb", "maml+lslr", "maml+ca", "maml++"]


def get_config(name, argument=""):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](argument)


def fields(config, *names):
    flat = dict(config_lib.flatten(config))
    assert config_lib.validate(config) is None
    return tuple(flat[name] for name in names)


LENGTH = ("train.epochs", "train.steps_per_epoch", "train.tasks_per_step")
ANNEALING = (
    "train.first_order_epochs",
    "train.multi_step_epochs",
    "train.cosine_annealing",
    "train.cosine_per",
)
OUTER = ("train.learning_rate", "train.final_learning_rate", "train.adam_b2", "train.clip_value")
REST = ("inner.learning_rate", "evaluation.ensemble", "evaluation.tasks", "data.rotate_evaluation")


@pytest.mark.parametrize("argument", ["", "protocol=paper"])
def test_paper_is_the_default(argument):
    omniglot = get_config("omniglot", argument)
    assert omniglot.protocol == "paper"
    assert fields(omniglot, *LENGTH, *ANNEALING) == (150, 500, 16, 50, 10, True, "step")
    assert fields(omniglot, *OUTER, *REST) == (1e-3, 1e-5, 0.99, 0.0, 0.1, 3, 600, True)
    mini = get_config("mini_imagenet", argument)
    assert fields(mini, *LENGTH, *ANNEALING) == (150, 500, 4, 50, 15, True, "step")
    assert fields(mini, *OUTER, *REST) == (1e-3, 1e-5, 0.99, 0.0, 0.01, 3, 600, True)


def test_released_is_what_the_authors_configurations_run():
    omniglot = get_config("omniglot", "protocol=released")
    assert omniglot.protocol == "released"
    assert fields(omniglot, *LENGTH, *ANNEALING) == (100, 500, 8, 0, 10, True, "epoch")
    assert fields(omniglot, *OUTER, *REST) == (1e-3, 1e-5, 0.999, 0.0, 0.1, 5, 600, False)
    assert fields(omniglot, "data.rotations") == (True,)
    for shot in (1, 5):
        mini = get_config("mini_imagenet", f"protocol=released,shot={shot}")
        assert fields(mini, *LENGTH, *ANNEALING) == (100, 500, 2, 0, 15, True, "epoch")
        assert fields(mini, *OUTER, *REST) == (1e-3, 1e-3, 0.999, 10.0, 0.1, 5, 600, False)


@pytest.mark.parametrize(("name", "tasks"), [("omniglot", 8), ("mini_imagenet", 2)])
def test_short_scales_the_papers_annealing_to_ten_epochs(name, tasks):
    paper, short = get_config(name), get_config(name, "protocol=short")
    assert fields(short, *LENGTH) == (10, 500, tasks)
    for field in ("first_order_epochs", "multi_step_epochs"):
        scaled = paper.train[field] * short.train.epochs / paper.train.epochs
        assert short.train[field] == max(round(scaled), 1)
    assert fields(short, *OUTER, *REST) == fields(paper, *OUTER, *REST)
    assert fields(short, *ANNEALING[2:]) == fields(paper, *ANNEALING[2:])


def test_compact_is_the_papers_with_60_epochs_of_2_tasks():
    paper, compact = (
        get_config("mini_imagenet", f"protocol={name}") for name in ("paper", "compact")
    )
    assert fields(compact, *LENGTH, *ANNEALING) == (60, 500, 2, 20, 5, True, "step")
    assert fields(compact, *OUTER, *REST) == fields(paper, *OUTER, *REST)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["omniglot", "mini_imagenet"])
def test_methods_and_protocols_compose(name, protocol, method):
    config = get_config(name, f"method={method},protocol={protocol}")
    config_lib.validate(config)
    assert (config.method, config.protocol) == (method, protocol)
    always = protocol == "released"
    assert config.train.cosine_annealing == (always or method in ("maml+ca", "maml++"))
    assert (config.inner.optimizer == "lslr") == (method in ("maml+lslr", "maml++"))
    assert (config.train.multi_step_epochs > 0) == (method in ("maml+msl", "maml++"))


def test_a_component_that_the_protocol_lacks_cannot_be_added():
    """``maml+da`` would be plain MAML under another name."""
    with pytest.raises(ConfigError, match=r"first_order_epochs is 0 in protocol 'released'.*no da"):
        get_config("omniglot", "method=maml+da,protocol=released")
    assert get_config("omniglot", "method=maml++,protocol=released").train.first_order_epochs == 0


def test_what_a_protocol_always_has_is_refused_under_another_one():
    config = get_config("omniglot", "method=maml,protocol=released")
    config.protocol = "paper"
    with pytest.raises(ConfigError, match=r"leaves out ca, but config\.train\.cosine_annealing"):
        config_lib.validate(config)


def test_unknown_protocol_lists_the_known():
    with pytest.raises(ConfigError, match="protocol is 'papers'; choose one of none, paper, re"):
        get_config("omniglot", "protocol=papers")


def test_ready_configurations_of_no_protocol_say_so():
    for name in ("quickstart", "image_folder"):
        assert get_config(name).protocol == "none"
