"""`python -m mamlpp_jax.predict` as a user meets it."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.cli.predict import find_images, predict, write_csv
from mamlpp_jax.errors import DataError
from mamlpp_jax.inference.saved_model import save_model
from tests.helpers.refusals import refused
from tests.helpers.small_models import drawings, small_model, write_class_folders

ROOT = pathlib.Path(__file__).parents[2]
# In one process, so that the files are made once.
pytestmark = pytest.mark.xdist_group("predict")


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mamlpp_jax.predict", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with `model`, `support` and `query`."""
    root = tmp_path_factory.mktemp("files")
    save_model(root / "model", small_model())
    write_class_folders(root / "support")
    (root / "query" / "nested").mkdir(parents=True)
    for number, image in enumerate(drawings(4, seed=1)):
        Image.fromarray(image).save(root / "query" / "nested" / f"字 {number}.png")
    Image.fromarray(drawings(1, seed=2)[0]).save(root / "more, one.png")
    return root


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def check_output(folder, table):
    """The CSV, the table and the figure show what the classifier predicts."""
    header, *rows = read_csv(folder / "predictions.csv")
    assert header == ["file", "label", "probability", "class 0", "class 1", "class 2"]
    names = [f"query/nested/字 {number}.png" for number in range(4)] + ["more, one.png"]
    assert [row[0] for row in rows] == names
    clf = FewShotClassifier.from_pretrained(folder / "model")
    support = find_images([str(folder / "support")])
    clf.fit(support, [path.parent.name for path in support])
    expected = clf.predict_proba([folder / name for name in names])
    np.testing.assert_allclose(np.array(rows)[:, 3:].astype(float), expected, atol=1e-4)
    for name, label, probability, *classes in rows:
        assert probability == max(classes)
        assert header[3:][classes.index(probability)] == label
        assert any(name in line and label in line for line in table.splitlines())
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 200


def test_the_command_prints_writes_and_draws(files):
    flags = ["--model=model", "--support=support", "--query=query"]
    outputs = ["--output=predictions.csv", "--figure=figure.png"]
    done = command(files, *flags, *outputs, "more, one.png")
    assert done.returncode == 0, done.stderr
    check_output(files, done.stdout)


def test_the_function_does_the_same(files, monkeypatch):
    monkeypatch.chdir(files)
    clf = FewShotClassifier.from_pretrained("./model")
    places = [pathlib.Path(name) for name in ("support", "predictions.csv", "figure.png")]
    check_output(files, predict(clf, places[0], ["query", "more, one.png"], *places[1:]))


def test_bad_input_is_one_paragraph(files):
    done = command(files, "--model=omniglott", "--support=support", "--query=query")
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no trained model 'omniglott'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("support", "query", "said"),
    [
        ("support", "text.png", r"text\.png"),
        ("support", "absent.png", r"absent\.png"),
        ("query/nested", "query", "has no class folders"),
        ("absent", "query", "folder .*absent"),
        ("support", "empty", "empty has no image"),
    ],
)
def test_what_cannot_be_read_is_named(files, monkeypatch, support, query, said):
    monkeypatch.chdir(files)
    pathlib.Path("text.png").write_text("no image")
    pathlib.Path("empty").mkdir(exist_ok=True)
    clf = FewShotClassifier(small_model())
    with pytest.raises(DataError, match=said):
        predict(clf, pathlib.Path(support), [query], pathlib.Path("out.csv"))
    assert not pathlib.Path("out.csv").exists()


def test_help_tells_the_flags(tmp_path):
    done = command(tmp_path, "--help")
    assert done.returncode == 0
    for flag in ("--model", "--support", "--query", "--output", "--figure", "--polarity"):
        assert f"\n  {flag}: " in done.stdout
    assert "configurations found" not in done.stdout


def test_images_are_found_in_folders_by_name(tmp_path):
    for name in ("b.PNG", "a/2.jpg", "a/10.jpg", ".hidden.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images([str(tmp_path)])]
    assert found == ["a/10.jpg", "a/2.jpg", "b.PNG"]
    assert find_images(["absent.png", "x.txt"]) == [
        pathlib.Path("absent.png"),
        pathlib.Path("x.txt"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no image"):
        find_images([str(tmp_path), str(tmp_path / "empty")])


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    with refused(tmp_path, r"absent/file\.csv"):
        write_csv(tmp_path / "absent" / "file.csv", ["a"], ["x", "y"], np.array([[0.5, 0.5]]))
