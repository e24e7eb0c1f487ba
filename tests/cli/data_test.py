"""`python -m mamlpp_jax.data` as a user meets it, and the contact sheet it draws."""

import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.cli.data import describe, draw_contact_sheet
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.experiment import build_experiment, check_tasks, choose_classes
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


def test_rotated_uneven_and_unused_classes_are_counted():
    sizes = np.array([5, 9, 7, 6, 8, 5, 9], np.int32)
    images = np.zeros((sizes.sum(), 16, 16, 1), np.uint8)
    data = Dataset("glyphs", images, tuple("abcdefg"), sizes, ())
    counts = {"data.train_classes": 3, "data.val_classes": 2, "data.test_classes": 1}
    config = small_config(**counts, **{"data.rotations": True, "task.way": 2})
    lines = describe(config, data).splitlines()
    assert lines[1].startswith("train:     3 classes,")
    assert lines[1].endswith("with rotations 12 classes")
    assert " to " in lines[1]
    assert lines[-1] == "unused: 1 classes"
    config.task.way = 13
    assert describe(config, data).splitlines() == lines
    with pytest.raises(ConfigError, match="train split of glyphs has 12 classes"):
        check_tasks(config, data, choose_classes(config, data))


def own_classes(sizes, **fields):
    """A configuration of own images whose splits are chosen, and classes of these sizes."""
    images = np.zeros((sum(sizes), 16, 16, 1), np.uint8)
    names = tuple(f"own{i:02d}" for i in range(len(sizes)))
    data = Dataset("image_folder", images, names, np.array(sizes, np.int32))
    counts = dict.fromkeys(("data.train_classes", "data.val_classes", "data.test_classes"), 0)
    return small_config(**{"data.name": "image_folder", **counts, **fields}), data


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {},
            "split of image_folder has 4 classes; use at most 4, or add classes, or .*rotations=True",
        ),
        (
            {"data.split_fractions": "0.64,0.16,0.2"},
            r"val split .* has 2 classes; use at most 2, or raise the share of val in config\.data\.split_f",
        ),
        (
            {"data.train_classes": 6, "data.val_classes": 4, "data.test_classes": 2},
            r"val split .* has 4 classes; use at most 4, or raise config\.data\.val_classes",
        ),
        ({"data.rotations": True, "data.rotate_evaluation": False, "task.way": 7}, "rotate_eval"),
    ],
)
def test_too_few_classes_are_counted_and_what_would_help_is_named(fields, said):
    config, data = own_classes([3] * 12, **{"task.way": 5, **fields})
    assert sum(int(line.split()[1]) for line in describe(config, data).splitlines()[1:4]) == 12
    with pytest.raises(ConfigError, match=said):
        check_tasks(config, data, choose_classes(config, data))


def test_all_classes_with_too_few_images_are_named_at_once():
    config, data = own_classes([3] * 7 + [1, 3, 1])
    with pytest.raises(
        ConfigError,
        match=r"2 of 10 classes .*: 'own07' \(1\), 'own09' \(1\).*config\.data\.smallest_class=2\.",
    ):
        check_tasks(config, data, choose_classes(config, data))


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_for_a_few_classes_there_is_predict(classes):
    config, data = own_classes([3] * classes, **{"task.way": 5})
    with pytest.raises(ConfigError, match=r"train nothing: python -m mamlpp_jax\.predict"):
        check_tasks(config, data, choose_classes(config, data))


def drawn(experiment, data):
    """The images of a contact sheet in the order they are drawn, and the names beside them."""
    (axes,) = draw_contact_sheet(experiment, data).axes
    names = [text.get_text() for text in axes.texts if text.get_ha() == "right"]
    return [np.asarray(image.get_array()) for image in axes.images], names


def pixels(images):
    """Images in 0..1, [H, W] or [H, W, C], in an order of their own."""
    return sorted(np.rint(255 * np.asarray(image)).astype(np.uint8).tobytes() for image in images)


@pytest.mark.parametrize(("channels", "normalize"), [(1, "none"), (3, "imagenet")])
def test_the_sheet_shows_classes_and_the_episodes_the_model_gets(channels, normalize):
    grey = patterns()
    images = np.repeat(grey.images, channels, -1)
    data = Dataset("glyphs", images, grey.class_names, grey.class_sizes)
    experiment = build_experiment(
        small_config(**{"task.shot": 2, "data.normalize": normalize}), data
    )
    by_class = dict(zip(data.class_names, np.split(images / 255.0, 16), strict=True))
    drawn_images, drawn_names = map(iter, drawn(experiment, data))
    for split in ("train", "val", "test"):
        for name in sorted(experiment.class_names[split]):
            assert next(drawn_names) == name
            for image in by_class[name]:
                np.testing.assert_allclose(next(drawn_images), np.squeeze(image))
        stream = experiment.tasks[split]
        sampled = stream.host.batch(range(1), range(2)).images[0] / 255.0
        for task, episode in enumerate(sampled):  # [K, shot + query, H, W, C]
            assert list(itertools.islice(drawn_names, 3)) == stream.task_class_names(task)
            assert pixels(itertools.islice(drawn_images, 9)) == pixels(np.concatenate(episode))
    assert list(drawn_images) == []


def test_a_sheet_that_cannot_be_written_is_named(tmp_path):
    small_sources.own_images(tmp_path / "own", classes=12)
    done = command(
        "--config=configs/image_folder.py:way=2,shot=1,query=2",
        f"--config.data.manual_dir={tmp_path / 'own'}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        f"--contact_sheet={tmp_path / 'none' / 'sheet.png'}",
    )
    assert done.returncode == 2
    assert f"--contact_sheet: there is no folder {tmp_path / 'none'}" in done.stderr
