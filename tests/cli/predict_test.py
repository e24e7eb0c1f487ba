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
from mamlpp_jax.cli.predict import NONE, Judged, find_images, predict, write_csv
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
    assert header == [
        *("file", "label", "probability", "class 0", "class 1", "class 2", "familiarity")
    ]
    names = [f"query/nested/字 {number}.png" for number in range(4)] + ["more, one.png"]
    assert [row[0] for row in rows] == names
    clf = FewShotClassifier.from_pretrained(folder / "model")
    support = list(find_images([str(folder / "support")])[0])
    clf.fit(support, [path.parent.name for path in support])
    expected = clf.predict_proba([folder / name for name in names])
    np.testing.assert_allclose(np.array(rows)[:, 3:-1].astype(float), expected, atol=1e-4)
    for name, label, probability, *classes, _ in rows:
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
    for name in ("b.PNG", "a/2.jpg", "a/10.jpg", ".hidden.png", "notes.txt", "a/none"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    images, others = find_images([str(tmp_path)])
    found = {path.relative_to(tmp_path).as_posix(): folders for path, folders in images.items()}
    assert found == {"a/10.jpg": ("a",), "a/2.jpg": ("a",), "b.PNG": ()}
    assert list(found) == ["a/10.jpg", "a/2.jpg", "b.PNG"]
    assert [path.name for path in others] == ["none", "notes.txt"]
    assert list(find_images(["absent.png", "x.txt"])[0]) == [
        pathlib.Path("absent.png"),
        pathlib.Path("x.txt"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no image"):
        find_images([str(tmp_path), str(tmp_path / "empty")])


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """Class folders, the same images as queries, and among these some that cannot be read."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "support")
    write_class_folders(tmp_path / "query")
    (tmp_path / "query" / "class 1" / "cut.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "query" / "class 1" / "no suffix").touch()
    (tmp_path / "query" / "class 2" / "photo.hevc").touch()
    return tmp_path


def test_queries_in_class_folders_are_judged_and_the_broken_listed(labelled):
    clf = FewShotClassifier(small_model(), inner_steps=30)
    files = [labelled / name for name in ("out.csv", "figure.png", "confusion.pdf")]
    with pytest.warns(UserWarning, match="It is left out") as caught:
        text = predict(clf, labelled / "support", ["query"], *files)
    messages = " ".join(str(warning.message) for warning in caught)
    assert all(name in messages for name in ("cut.png", "no suffix", "photo.hevc"))
    assert "accuracy 100.0 % (6 of 6 images; 95 % interval 61.0 to 100.0 %)" in text
    header, *rows = read_csv(files[0])
    assert header[-2:] == ["familiarity", "true class"]
    assert [row[-1] for row in rows] == [row[1] for row in rows]
    assert all(path.stat().st_size for path in files)


def test_confusions_are_counted():
    judged = Judged(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), ["a", "b", NONE])
    assert judged.counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    lines = judged.report().splitlines()
    assert lines[0] == "accuracy 50.0 % (2 of 4 images; 95 % interval 15.0 to 85.0 %)"
    assert lines[-3].split() == ["a", "2", "1", "50.0", "b", "(1)"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_classes_need_no_support_and_strangers_are_rejected(labelled, capsys):
    (labelled / "query" / "unknown").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(noise).save(labelled / "query" / "unknown" / "noise.png")
    clf = FewShotClassifier(small_model(), inner_steps=30)
    before = predict(clf, labelled / "support", ["query"])
    assert "unknown" in before
    assert "(6 of 6 images" in before
    clf.save_pretrained("saved")
    again = FewShotClassifier.from_pretrained("saved")
    assert predict(again, None, ["query"]) == before
    again.reject_below = 0.999
    after = predict(again, None, ["query"])
    assert NONE in next(line for line in after.splitlines() if "noise.png" in line)
    assert "(7 of 7 images" in after


def test_the_command_saves_and_takes_up_classes(labelled):
    save_model(labelled / "model", small_model())
    done = command(labelled, "--model=model", "--support=support", "--save=saved")
    assert (done.returncode, done.stdout) == (0, "")
    done = command(labelled, "--model=saved", "--query=query", "--reject_below=0.1")
    assert done.returncode == 0, done.stderr
    assert "accuracy " in done.stdout
    assert done.stderr.count("warning: ") == 3
    done = command(labelled, "--model=saved", "--query=query/class 1/cut.png")
    assert done.returncode == 2
    assert done.stderr.startswith("error: None of the 1 query images can be read.")
    done = command(labelled, "--model=model", "--query=query")
    assert done.returncode == 2
    assert "--support is missing" in done.stderr


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    with refused(tmp_path, r"absent/file\.csv"):
        write_csv(tmp_path / "absent" / "file.csv", [["file", "label"]])
