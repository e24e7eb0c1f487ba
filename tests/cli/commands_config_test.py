"""What a configuration asks of data and devices is checked by the commands, before anything is compiled or written."""

import jax
import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from tests.helpers.refusals import compilations, refused
from tests.helpers.small_runs import small_config

NO_COUNTS = dict.fromkeys(("data.train_classes", "data.val_classes", "data.test_classes"), 0)


@pytest.mark.usefixtures("use_patterns")
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        # 2 tasks on one device divide into a chunk of 2; on the two devices of "automatic" not.
        (
            {"compute.devices": 0, "compute.tasks_per_chunk": 2},
            ["tasks_per_chunk is 2; it must divide the 1 tasks per device", "over 2 device"],
        ),
        (
            {"compute.devices": 8, "train.tasks_per_step": 8},
            ["compute.devices is 8, but JAX sees 4 cpu", "at most 4"],
        ),
        ({"task.way": 9}, ["task.way is 9, but the train split of glyphs has 8 classes"]),
        ({"task.way": 5}, ["task.way is 5, but the val split of glyphs has 4 classes"]),
        (
            {"task.shot": 4, "task.query": 3},
            [
                r"is 4 \+ 3 = 7, but 16 of 16 classes of glyphs have fewer images: 'class00' \(6\)",
                "data.smallest_class|at most 6",
            ],
        ),
        ({"data.normalize": "imagenet"}, ["data.normalize is 'imagenet', .* has grey", "use none"]),
        ({"data.channels": 3}, ["data.channels is 3, but glyphs has images of 1; use 0"]),
        (
            {**NO_COUNTS, "data.split_fractions": "0.64,0.16,0.2", "task.way": 4},
            [
                "the val split of glyphs has 3 classes",
                "share of val in config.data.split_fractions",
            ],
        ),
        (
            {**NO_COUNTS, "task.way": 6},
            ["the train split of glyphs has 6 classes|the val split of glyphs has 5 classes"],
        ),
        ({"data.train_classes": 0}, ["data.train_classes is 0, but the other splits"]),
        ({"data.split_file": "/none.csv"}, ["data.split_file: /none.csv cannot be read"]),
        ({"data.train_classes": 9}, [r"data.train_classes=9 \+ .* = 17 classes, but .* has 16"]),
    ],
)
def test_what_data_or_devices_cannot_give_is_refused(tmp_path, fields, parts):
    config = small_config(**fields)
    config_lib.validate(config)
    with refused(tmp_path, *parts):
        commands.train(config, Workdir(tmp_path / "run"))
    with refused(tmp_path, *parts):
        commands.dry_run(config, Workdir(tmp_path / "run"))


@pytest.mark.usefixtures("use_patterns")
def test_rotated_classes_count(tmp_path):
    with refused(tmp_path, "task.way is 17, but the val split of glyphs has 16 classes"):
        commands.train(
            small_config(**{"task.way": 17, "data.rotations": True}), Workdir(tmp_path / "run")
        )


def test_unknown_data_set_lists_the_known(tmp_path):
    config = small_config(**{"data.name": "omniglott"})
    config.data.cache_dir = str(tmp_path / "cache")
    with refused(
        tmp_path,
        "data.name is 'omniglott'",
        "glyphs, image_folder, mini_imagenet, omniglot, tfds:<name>",
    ):
        commands.train(config, Workdir(tmp_path / "run"))


def test_refusals_would_notice_compilation():
    before = compilations()
    jax.jit(lambda x: x * 3 + 1)(1.5)
    assert compilations() > before
