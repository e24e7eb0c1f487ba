"""`python -m mamlpp_jax.data` as a user meets it, and the contact sheet it draws."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.cli.data import describe
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.reports import contact_sheet
from mamlpp_jax.training.experiment import build
from tests.helpers import small_sources
from tests.helpers.small_runs import patterns, small_config

ROOT = pathlib.Path(__file__).parents[2]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mamlpp_jax.data", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_counts_are_printed_and_a_sheet_is_drawn(tmp_path):
    small_sources.own_images(tmp_path / "own", classes=12)
    done = command(
        "--config=configs/image_folder.py:way=2,shot=1,query=2",
        f"--config.data.manual_dir={tmp_path / 'own'}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        "--config.data.image_size=16",
        f"--contact_sheet={tmp_path / 'sheet.png'}",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "image_folder: 12 classes, 114 images, 16x16x3, 0 MiB"
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["train:", "8"],
        ["val:", "2"],
        ["test:", "2"],
    ]
    assert sum(int(line.split()[3]) for line in lines[1:4]) == 114
    assert lines[4] == f"contact sheet: {tmp_path / 'sheet.png'}"
    with Image.open(tmp_path / "sheet.png") as image:
        assert min(image.size) > 500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config is missing"),
        (["--config=configs/mini_imagenet.py:way=1"], "config.task.way is 1"),
        (
            ["--config=configs/image_folder.py", "--config.data.nam=x"],
            "did you mean config.data.name",
        ),
        (["--config=configs/image_folder.py"], "data.manual_dir is empty"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(tmp_path, arguments, said):
    if arguments:
        arguments = [*arguments, f"--config.data.cache_dir={tmp_path}"]
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_turned_uneven_and_unused_classes_are_told():
    sizes = np.array([5, 9, 7, 6, 8, 5, 9], np.int32)
    images = np.zeros((sizes.sum(), 16, 16, 1), np.uint8)
    data = Dataset("glyphs", images, tuple("abcdefg"), sizes, ())
    counts = {"data.train_classes": 3, "data.val_classes": 2, "data.test_classes": 1}
    config = small_config(**counts, **{"data.rotations": True, "task.way": 2})
    lines = describe(config, data).splitlines()
    assert lines[1].startswith("train:     3 classes,")
    assert lines[1].endswith("with quarter turns 12 classes")
    assert " to " in lines[1]
    assert lines[-1] == "unused: 1 classes"
    config.task.way = 13
    with pytest.raises(ConfigError, match="train split of glyphs has 12 classes"):
        describe(config, data)


def drawn_images(monkeypatch, program, dataset, path):
    """The images a sheet consists of, in the order they are drawn, and the texts beside them."""
    images, names = [], []
    monkeypatch.setattr(contact_sheet._Sheet, "image", lambda self, x, y, i: images.append(i))
    monkeypatch.setattr(contact_sheet._Sheet, "name", lambda self, x, y, name: names.append(name))
    contact_sheet.draw(program, dataset, path)
    return images, names


def test_the_sheet_shows_classes_and_the_episodes_the_model_gets(tmp_path, monkeypatch):
    data = patterns()
    program = build(small_config(**{"task.shot": 2}), data)
    images, names = drawn_images(monkeypatch, program, data, tmp_path / "x.png")
    classes = program.class_names
    start = 0
    for split in ("train", "val", "test"):
        members = sorted(classes[split])
        assert names[: len(members)] == members
        for name in members:
            first = 6 * data.class_names.index(name)
            for image in data.images[first : first + 6]:
                np.testing.assert_allclose(images[start], image / 255.0)
                start += 1
        names = names[len(members) :]
        for task in range(2):
            assert names[:3] == program.drawn_classes(split, task)
            episodes = program.episodes(split, 2)
            for row, name in enumerate(names[:3]):
                own = data.images.reshape(16, 6, 16, 16, 1)[data.class_names.index(name)] / 255.0
                for image in images[start : start + 3]:
                    assert np.abs(own - image).max(axis=(1, 2, 3)).min() < 1e-6
                np.testing.assert_allclose(
                    images[start], episodes.support_images[task, 2 * row], atol=1e-6
                )
                start += 3
            names = names[3:]
    assert start == len(images)


def test_a_sheet_in_colour_has_its_normalisation_taken_back(tmp_path, monkeypatch):
    grey = patterns()
    data = Dataset("glyphs", np.repeat(grey.images, 3, -1), grey.class_names, grey.class_sizes)
    program = build(small_config(**{"data.normalize": "imagenet"}), data)
    images, _ = drawn_images(monkeypatch, program, data, tmp_path / "x.png")
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)
    # Equal channels before and after.
    assert max(np.ptp(image, axis=-1).max() for image in images) < 1e-5


def test_a_sheet_that_cannot_be_written_is_named(tmp_path):
    data = patterns()
    with pytest.raises(WorkdirError, match=r"cannot write .*none/sheet\.png"):
        contact_sheet.draw(build(small_config(), data), data, tmp_path / "none" / "sheet.png")
