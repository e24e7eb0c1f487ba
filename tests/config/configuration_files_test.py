"""The files in `configs/` and their arguments."""

import pathlib
import runpy
import subprocess
import sys

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]


def test_mini_imagenet_follows_the_papers_protocol():
    get_config = runpy.run_path(str(ROOT / "configs" / "mini_imagenet.py"))["get_config"]
    for shot, tasks in ((1, 4), (5, 2)):
        for steps in range(1, 6):
            config = get_config(f"way=5,shot={shot},steps={steps}")
            config_lib.validate(config)
            assert config_lib.total_steps(config) == 75_000
            assert (config.train.inner_steps, config.train.tasks_per_step) == (steps, tasks)
            assert (config.task.query, config.model.filters) == (15, 48)
            assert config.inner.learning_rate == 0.01
            assert config.train.multi_step_epochs == 15


def test_a_configuration_is_read_and_checked_without_jax():
    code = (
        "import sys; from configs import omniglot; from mamlpp_jax import config; "
        "config.validate(omniglot.get_config('way=20')); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(result.stdout.split())
    assert "mamlpp_jax" in modules
    assert not modules & {"jax", "jaxlib", "flax", "optax", "orbax", "numpy"}


def test_arguments_of_a_configuration_file():
    defaults = {"way": 5, "method": "maml++"}
    assert config_lib.parse_argument(None, defaults) == defaults
    assert config_lib.parse_argument("way=20, method=maml", defaults) == {
        "way": 20,
        "method": "maml",
    }
    with pytest.raises(ConfigError, match=r"no argument 'ways' \(did you mean way\?\).*way=5"):
        config_lib.parse_argument("ways=5", defaults)
    with pytest.raises(ConfigError, match="way='many' must be of type int"):
        config_lib.parse_argument("way=many", defaults)
