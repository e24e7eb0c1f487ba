"""How shipped models are measured: as `--mode=evaluate` measures the same weights, and what their cards say."""

import json
import shutil

import pytest

from experiments import pretrained_card
from experiments.paper.archived_runs import planned_config
from experiments.pretrained import RECIPES
from experiments.pretrained_card import Notes, write_card
from experiments.pretrained_check import TOLERANCE, compare
from mamlpp_jax import FewShotClassifier
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.config import validate
from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.pretrained import SHIPPED
from mamlpp_jax.inference.saved_model import load_model, save_model
from tests.helpers.cards import front_matter
from tests.helpers.small_runs import patterns, small_config

# In one process, so that the run is made once.
pytestmark = [pytest.mark.xdist_group("pretrained"), pytest.mark.usefixtures("use_patterns")]


@pytest.fixture
def use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())
    monkeypatch.setattr(pretrained_card, "load_dataset", lambda data: patterns())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and the model saved from it."""
    root = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        commands.train(small_config(), Workdir(root / "run"))
    FewShotClassifier.from_pretrained(root / "run").save_pretrained(root / "model")
    return root


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(("way", "shot"), [(3, 1), (2, 3)])
def test_the_classifier_is_as_accurate_as_the_evaluation_of_the_run(copied, way, shot):
    found = compare(copied / "model", Workdir(copied / "run"), way, shot, tasks=20)
    assert found["tasks that differ"] == 0
    assert abs(found["classifier"] - found["evaluate"]) <= TOLERANCE
    assert 1 / way < found["classifier"] <= 1


def test_other_weights_are_not_compared(copied):
    model = load_model(copied / "model")
    save_model(copied / "other", model.changed(steps=(model.steps[0] + 1,)))
    with pytest.raises(ModelError, match="compare the model of that run's best epoch"):
        compare(copied / "other", Workdir(copied / "run"), 3, 1, tasks=20)


def test_a_card_has_what_was_measured(copied, monkeypatch):
    monkeypatch.setattr(pretrained_card, "WAYS", (2, 4))
    monkeypatch.setattr(pretrained_card, "SHOTS", (1, 3))
    monkeypatch.setattr(pretrained_card, "_TASKS", 4)
    monkeypatch.setattr(pretrained_card, "_ORDER_TASKS", 4)
    monkeypatch.setattr(pretrained_card, "_USUAL_WAY", 2)
    notes = Notes("Patterns.", "Nobody's.", "mit", "anything else")
    write_card(copied / "model", copied / "run", notes, "the command")
    measured = json.loads((copied / "run" / "card.json").read_text())
    assert measured["2-way 1-shot"][2] == 4
    assert measured["2-way 3-shot"][2] == 4
    assert "4-way 1-shot" not in measured  # four classes make one such task
    card = load_model(copied / "model").card
    assert front_matter(card)["license"] == "mit"
    accuracy, half, _ = measured["2-way 3-shot"]
    for part in ("Patterns. Nobody's.", "the command", "Not for anything else."):
        assert part in card
    assert f"{100 * accuracy:.2f} ± {100 * half:.2f}" in card


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_model_is_what_its_recipe_makes(name):
    run = RECIPES[name].run
    validate(planned_config(run))
    card = load_model(SHIPPED / name).card
    assert all(flag in card for flag in run.flags[1:])
