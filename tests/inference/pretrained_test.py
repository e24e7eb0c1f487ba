"""From names to models: shipped ones, saved folders and runs."""

import subprocess
import sys

import numpy as np
import pytest

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.errors import MamlppError, ModelError
from mamlpp_jax.inference import pretrained
from mamlpp_jax.inference.saved_model import save_model
from tests.helpers.cards import front_matter
from tests.helpers.refusals import refused
from tests.helpers.small_models import drawings, small_model, small_workdir

SUPPORT, LABELS, QUERIES = drawings(5), list("abcab"), drawings(4, seed=1)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package with the models "alpha" and "beta"; the current folder is empty."""
    for name in ("alpha", "beta"):
        save_model(tmp_path / "package" / name, small_model())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "package")
    return tmp_path


def test_shipped_names_win_over_folders(shipped):
    save_model(shipped / "here" / "alpha", small_model(members=2))
    assert len(pretrained.find_model("alpha").steps) == 1
    assert len(pretrained.find_model("./alpha").steps) == 2
    assert len(pretrained.find_model(shipped / "here" / "alpha").steps) == 2


@pytest.mark.parametrize("name", ["gamma", "", "alpha/", "../package", "nul\0"])
def test_an_unknown_name_lists_what_there_is(shipped, name):
    with refused(shipped, "alpha, beta|embedded null"):
        pretrained.find_model(name)


def test_an_installation_without_models_says_so(shipped, monkeypatch):
    monkeypatch.setattr(pretrained, "SHIPPED", shipped / "absent")
    with refused(shipped, "this installation has none"):
        pretrained.find_model("alpha")


def test_what_is_shipped_can_be_read():
    assert pretrained.shipped_models() == ["glyphs", "omniglot", "photos"]
    for name in pretrained.shipped_models():
        model = pretrained.find_model(name)
        assert model.statistics == ("running" if name == "photos" else "support")
        assert front_matter(model.card)["license"] == ("other" if name == "photos" else "mit")


def test_a_run_gives_the_same_predictions_as_its_saved_folder(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    of_run = FewShotClassifier.from_pretrained(workdir).fit(SUPPORT, LABELS)
    assert of_run.model.steps == (4,)
    of_run.save_pretrained(tmp_path / "saved")
    saved = FewShotClassifier.from_pretrained(tmp_path / "saved").fit(SUPPORT, LABELS)
    np.testing.assert_array_equal(saved.predict_proba(QUERIES), of_run.predict_proba(QUERIES))


def test_an_ensemble_of_a_runs_best_epochs(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    assert pretrained.find_model(workdir, 2).steps == (4, 6)
    assert pretrained.find_model(workdir, 9).steps == (4, 6, 2)
    save_model(tmp_path / "saved", pretrained.find_model(workdir, 3))
    assert pretrained.find_model(tmp_path / "saved").steps == (4, 6, 2)
    fewer = pretrained.find_model(tmp_path / "saved", 2)
    assert fewer.steps == (4, 6)
    assert fewer.meta.params["linear"]["bias"].shape == (2, 3)
    with pytest.raises(ModelError, match="ensemble is 0"):
        pretrained.find_model(workdir, 0)


def test_a_run_without_a_finished_epoch_gives_its_latest_state(tmp_path):
    workdir = small_workdir(tmp_path / "run", {1: None, 3: None})
    assert pretrained.find_model(workdir, 3).steps == (3,)


def test_a_damaged_epoch_is_left_out(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    (workdir / "checkpoints" / "4" / "sha256.json").unlink()
    assert pretrained.find_model(workdir).steps == (6,)


def test_a_run_that_cannot_be_read_is_named(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    (workdir / "config.json").unlink()
    with pytest.raises(MamlppError, match=r"run/config\.json"):
        pretrained.find_model(workdir)


def test_a_saved_model_is_used_without_what_only_runs_need(tmp_path):
    """Importing Orbax alone takes a second of a first prediction."""
    save_model(tmp_path, small_model())
    program = """
import sys, numpy as np
from mamlpp_jax import FewShotClassifier
images = np.eye(16)[None].repeat(2, 0)
FewShotClassifier.from_pretrained(sys.argv[1]).fit(images, [0, 1]).predict(images)
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "safetensors" in done.stdout.split()
    assert {"orbax", "tensorstore", "matplotlib"}.isdisjoint(done.stdout.split())
