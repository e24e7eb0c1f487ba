"""The configuration that looks at a folder of one's own photographs."""

import subprocess
import sys

import pytest
from PIL import Image

from mamlpp_jax import config as config_lib
from mamlpp_jax.cli.config_files import load_config
from mamlpp_jax.errors import ConfigError


def photographs(root, classes, images, prefix=""):
    for label in range(classes):
        folder = root / prefix / f"{prefix}{label:02d}"
        folder.mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    return root


def test_tasks_steps_and_evaluation_are_chosen_for_the_folder_and_said(tmp_path, capsys):
    root = photographs(tmp_path / "own", 18, 12)
    config = load_config(f"own_images:dir={root}")
    config_lib.validate(config)
    assert config.task.to_dict() == {"way": 5, "shot": 4, "query": 5}
    assert config.data.manual_dir == str(root)
    steps = config_lib.total_steps(config)
    # Evaluation costs less than training.
    assert config.train.epochs * config.evaluation.tasks < steps * config.train.tasks_per_step
    said = capsys.readouterr().err
    for part in (
        "18 classes of 12 images",
        "5 classes, of each 4 images to learn from",
        "starting from the model photos",
        f"{steps} outer steps",
    ):
        assert part in said


def test_a_start_gives_its_model_and_inner_loop_and_another_method_keeps_the_model(tmp_path):
    root = photographs(tmp_path / "own", 9, 6)
    usual = load_config(f"own_images:dir={root}")
    anew = load_config(f"own_images:dir={root},start=none")
    other = load_config(f"own_images:dir={root},method=protomaml")
    for config in (usual, anew, other):
        config_lib.validate(config)
    assert usual.train.start_from == other.train.start_from == "photos"
    assert usual.model.name == other.model.name == "resnet12"
    assert usual.train.learning_rate == 3e-4
    assert (usual.norm.train_statistics, usual.inner.adapts) == ("running", "head")
    assert (anew.train.start_from, anew.method, anew.model.name) == ("", "maml++", "conv4")
    assert (usual.inner.learning_rate, anew.inner.learning_rate) == (0.03, 0.01)
    assert (other.method, other.inner.init_theta) == ("protomaml", "prototypes")


def test_the_configuration_starts_no_back_end(tmp_path):
    """How many devices there are is set after it is read."""
    root = photographs(tmp_path / "own", 9, 6)
    code = (
        "import jax; from mamlpp_jax.cli.config_files import load_config\n"
        f"load_config('own_images:dir={root}'); jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert jax.device_count() == 3"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arguments_and_minutes_change_the_choice(tmp_path):
    root = photographs(tmp_path / "own", 9, 6)
    usual, longer = (load_config(f"own_images:dir={root},minutes={m}") for m in (10, 30))
    assert usual.task.to_dict() == {"way": 3, "shot": 2, "query": 4}
    assert config_lib.total_steps(longer) == pytest.approx(
        3 * config_lib.total_steps(usual), rel=0.1
    )
    config = load_config(f"own_images:dir={root},way=2,shot=1")
    assert (config.task.way, config.task.shot) == (2, 1)


def test_small_classes_are_left_out_and_splits_counted_by_themselves(tmp_path, capsys):
    root = photographs(tmp_path / "own", 12, 12, "a")
    photographs(root, 2, 2, "b")
    config = load_config(f"own_images:dir={root}")
    assert config.data.smallest_class == 9
    assert "2 of them with fewer than 9 left out" in capsys.readouterr().err
    for split, classes in (("train", 8), ("val", 2), ("test", 3)):
        photographs(tmp_path / "split", classes, 12, split)
    assert load_config(f"own_images:dir={tmp_path / 'split'}").task.way == 2


@pytest.mark.parametrize(
    ("classes", "argument", "said"),
    [
        (0, "", "own_images needs the folder of your images: --config=own_images:dir=DIR"),
        (
            9,
            "dir={},start=nothere",
            r"start is 'nothere', neither a trained model \(glyphs, omniglot, photos\)",
        ),
        (4, "dir={}", r"has 4 classes of 9 images or more; .* python -m mamlpp_jax\.predict"),
    ],
)
def test_what_cannot_be_trained_on_is_answered(tmp_path, classes, argument, said):
    photographs(tmp_path, classes, 12)
    with pytest.raises(ConfigError, match=said):
        load_config(f"own_images:{argument.format(tmp_path)}")
