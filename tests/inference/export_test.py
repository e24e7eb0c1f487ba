"""Exported functions run where mamlpp_jax cannot be imported, and agree with the classifier."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import sysconfig

import jax.export
import numpy as np
import pytest
from PIL import Image

from mamlpp_jax import FewShotClassifier, export_adaptation
from mamlpp_jax.inference.stablehlo import PLATFORMS
from tests.helpers.refusals import refused
from tests.helpers.small_models import colour_config, drawings, small_model

EXAMPLE = pathlib.Path(__file__).parents[2] / "experiments" / "run_exported.py"
SUPPORT, LABELS, QUERIES = drawings(6), [0, 0, 1, 1, 2, 2], drawings(5, seed=1)

pytestmark = pytest.mark.xdist_group("export")
pytest.importorskip("flatbuffers")


def run_without_mamlpp(*arguments, folder):
    """Runs Python on the dependencies alone: without `site` no editable install is found."""
    paths = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    done = subprocess.run(
        [sys.executable, "-P", "-S", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def test_the_example_agrees_where_mamlpp_jax_cannot_be_imported(tmp_path):
    clf = FewShotClassifier(small_model(members=2)).fit(SUPPORT, LABELS)
    clf.export(tmp_path / "model.bin")
    export_adaptation(clf, tmp_path / "adapt.bin", way=3, shot=2)
    paths = [tmp_path / f"{number}.png" for number in range(len(SUPPORT) + len(QUERIES))]
    for path, image in zip(paths, [*SUPPORT, *QUERIES], strict=True):
        Image.fromarray(image).save(path)
    probe = "try:\n    import mamlpp_jax\nexcept ImportError:\n    print('absent')"
    assert run_without_mamlpp("-c", probe, folder=tmp_path) == "absent\n"
    for arguments in (["model.bin", *paths[len(SUPPORT) :]], ["adapt.bin", *paths]):
        lines = run_without_mamlpp(EXAMPLE, *arguments, folder=tmp_path).splitlines()
        found = [[float(cell) for cell in line.split("\t")[1:]] for line in lines]
        np.testing.assert_allclose(found, clf.predict_proba(QUERIES), atol=1e-5)


@pytest.mark.parametrize("statistics", ["support", "running"])
def test_any_number_of_images_on_any_platform(tmp_path, statistics):
    clf = FewShotClassifier(small_model(), statistics=statistics).fit(SUPPORT, LABELS)
    clf.export(tmp_path / "model.bin")
    model = load(tmp_path / "model.bin")
    assert model.platforms == PLATFORMS
    for count in (1, 5):
        found = model.call(clf.preprocess(QUERIES[:count]))
        np.testing.assert_allclose(found, clf.predict_proba(QUERIES[:count]), atol=1e-5)


def test_the_whole_adaptation(tmp_path):
    clf = FewShotClassifier(small_model())
    export_adaptation(clf, tmp_path / "adapt.bin", way=3, shot=2)
    assert not hasattr(clf, "classes_")
    found = load(tmp_path / "adapt.bin").call(clf.preprocess(SUPPORT), clf.preprocess(QUERIES))
    expected = clf.fit(SUPPORT, LABELS).predict_proba(QUERIES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_saved_model_is_exported_by_its_name(tmp_path):
    clf = FewShotClassifier(small_model(colour_config(), channels=3))
    clf.save_pretrained(tmp_path / "saved")
    export_adaptation(tmp_path / "saved", tmp_path / "adapt.bin", way=2, shot=1)
    exported = load(tmp_path / "adapt.bin")
    assert [str(aval.shape) for aval in exported.in_avals] == ["(2, 16, 16, 3)", "(n, 16, 16, 3)"]


@pytest.mark.filterwarnings("ignore")  # of jax2onnx
def test_onnx_runtimes_agree(tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    clf = FewShotClassifier(small_model(members=2)).fit(SUPPORT, LABELS)
    clf.export(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 5):
        inputs = {session.get_inputs()[0].name: clf.preprocess(QUERIES[:count])}
        (found,) = session.run(None, inputs)
        np.testing.assert_allclose(found, clf.predict_proba(QUERIES[:count]), atol=1e-4)


def test_an_export_says_when_and_by_what_it_was_made(tmp_path):
    clf = FewShotClassifier(small_model()).fit(SUPPORT, LABELS)
    clf.export(tmp_path / "model.bin")
    about = json.loads((tmp_path / "model.bin.json").read_text())
    assert about["jax"] == jax.__version__
    assert datetime.date.fromisoformat(about["date"]) <= datetime.date.today()
    assert "six months" in about["readable"]
    assert about["inputs"] == [["n", 16, 16, 1]]


@pytest.mark.parametrize(("way", "shot"), [(1, 1), (2, 0), (2.0, 1)])
def test_tasks_that_there_are_not_are_refused(tmp_path, way, shot):
    clf = FewShotClassifier(small_model())
    with refused(tmp_path, r"task\.(way|shot) is"):
        export_adaptation(clf, tmp_path / "file", way, shot)


def test_the_package_that_is_missing_is_named(tmp_path, monkeypatch):
    clf = FewShotClassifier(small_model())
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with refused(tmp_path, r"mamlpp_jax\[export\]"):
        export_adaptation(clf, tmp_path / "file", way=3, shot=2)
    clf.fit(SUPPORT, LABELS)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with refused(tmp_path, r"mamlpp_jax\[onnx\]"):
        clf.export(tmp_path / "file.onnx")
