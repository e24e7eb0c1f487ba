"""Models from before the present files: shipped ones, archived runs and saved models of version 1 predict as they did.

`version_1` holds untrained models that an earlier version saved, and `predictions_before.json` what it predicted with
these, with shipped models and with archived runs.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import load_model, save_model
from tests.helpers.refusals import refused
from tests.helpers.small_models import drawings

ROOT = pathlib.Path(__file__).parents[2]
VERSION_1 = pathlib.Path(__file__).parent / "version_1"
BEFORE = json.loads((pathlib.Path(__file__).parent / "predictions_before.json").read_text())
# In `make test`; the others are larger.
QUICK = {"glyphs", *(name for name in BEFORE if "version_1" in name)}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in BEFORE]
)
def test_a_model_predicts_what_it_did_before(name):
    folder = ROOT / name
    model = find_model(folder if folder.exists() else name)
    # Shipped models got their temperature later.
    clf = FewShotClassifier(dataclasses.replace(model, temperature=1.0))
    clf.fit(drawings(5, seed=3), list("abcab"))
    np.testing.assert_allclose(clf.predict_proba(drawings(6, seed=4)), BEFORE[name], atol=0.02)


def test_a_model_of_version_1_becomes_one_of_the_present_version(tmp_path):
    folder = shutil.copytree(VERSION_1 / "plain", tmp_path / "model")
    before = load_model(folder)
    assert (before.steps, before.statistics, before.inner_steps) == ((0, 1), "support", 2)
    assert (before.config.method, before.config.task.way) == ("maml++", 3)
    save_model(folder, before)
    assert json.loads((folder / "model.json").read_text())["format_version"] == 2
    assert load_model(folder).config == before.config
    assert load_model(folder).card == before.card


@pytest.mark.parametrize("name", ["plain", "in 64-bit mode"])
def test_models_are_read_in_64_bit_mode_too(tmp_path, name):
    """Also those that were saved in it."""
    folder = shutil.copytree(VERSION_1 / "plain", tmp_path / "model")
    if name != "plain":
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        weights = safetensors.numpy.save({k: a.astype("f8") for k, a in arrays.items()})
        (folder / "model.safetensors").write_bytes(weights)
        edit(folder / "config.json", sha256=hashlib.sha256(weights).hexdigest())
    expected = load_model(VERSION_1 / "plain").meta
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            jax.tree.map(np.testing.assert_array_equal, load_model(folder).meta, expected)


def edit(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"format_version": 7}, "version 7"),
        ({"sha256": ""}, r"model\.safetensors is damaged, or another model's than config\.json"),
        ({"trained": {"task.way": "many"}}, r"config\.json does not fit .*task\.way is 'many'"),
        ({"trained": None}, r"config\.json is damaged"),
        ({"image": None}, r"config\.json is damaged"),
        ({"image": {"size": 0}}, r"config\.json does not fit .*image_size is 0"),
        ({"steps": []}, r'config\.json is damaged: "steps" must be'),
        ({"format": "other"}, r"config\.json is not a saved model's"),
    ],
)
def test_a_damaged_model_of_version_1_is_refused_by_name(tmp_path, entries, said):
    folder = shutil.copytree(VERSION_1 / "plain", tmp_path / "model")
    edit(folder / "config.json", **entries)
    with refused(folder, said):
        load_model(folder)


@pytest.fixture
def archived(tmp_path):
    """What an earlier version archived of a run: the first member of a model, and its configuration."""
    model, folder = load_model(VERSION_1 / "plain"), tmp_path / "archived"
    folder.mkdir()
    arrays = safetensors.numpy.load_file(VERSION_1 / "plain" / "model.safetensors")
    weights = safetensors.numpy.save({k: a[0] for k, a in arrays.items()}, {"step": "4"})
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    (folder / "data.json").write_text('{"channels": 1}')
    (folder / "results.json").write_text("{}")
    return folder


def test_an_archived_run_of_before_is_its_best_epoch(archived):
    model, first = find_model(archived), load_model(VERSION_1 / "plain").first_members(1)
    assert (model.config, model.image_format, model.steps) == (
        first.config,
        first.image_format,
        (4,),
    )
    np.testing.assert_array_equal(
        model.meta.params["linear"]["bias"], first.meta.params["linear"]["bias"]
    )


def test_a_model_is_not_saved_into_an_archived_run(archived):
    with refused(archived, r"config\.json is not a saved model's"):
        save_model(archived, load_model(VERSION_1 / "plain"))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("weights.safetensors", b"", r"weights\.safetensors is not readable as safetensors"),
        ("weights.safetensors", safetensors.numpy.save({}), r"weights\.safetensors is damaged"),
        ("config.json", b"{}", r"config\.json does not fit .* is empty"),
        ("config.json", b"[]", r"config\.json is damaged"),
        ("data.json", b"{}", r"data\.json is damaged: 'channels' is missing"),
        (
            "weights.safetensors",
            safetensors.numpy.save({}, {"step": "4"}),
            r"weights\.safetensors does not have the array",
        ),
    ],
)
def test_a_damaged_archived_run_is_refused_by_name(archived, file, content, said):
    (archived / file).write_bytes(content)
    with refused(archived, said):
        find_model(archived)
