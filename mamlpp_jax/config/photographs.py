"""The configuration that the published few-shot sets of photographs share: mini-ImageNet's, as the paper sets it."""

from __future__ import annotations

from ml_collections import ConfigDict

from mamlpp_jax.config.arguments import parse_argument
from mamlpp_jax.config.fields import default_config
from mamlpp_jax.config.methods import apply_method
from mamlpp_jax.config.protocols import apply_protocol


def photograph_config(name: str, argument: str | None, image_size: int = 84) -> ConfigDict:
    """The configuration of this data set in its published splits, with an argument such as "way=5,shot=5"."""
    defaults = {"way": 5, "shot": 1, "method": "maml++", "steps": 5, "protocol": "paper", "seed": 0}
    chosen = parse_argument(argument, defaults)
    config = default_config()
    config.experiment = f"{name}-{chosen['way']}way-{chosen['shot']}shot"
    if chosen["steps"] != 5:
        config.experiment += f"-{chosen['steps']}steps"
    config.seed = chosen["seed"]
    config.data.name = name
    config.data.image_size = image_size
    config.data.normalize = "imagenet"
    config.data.rotations = False
    config.data.train_classes = config.data.val_classes = config.data.test_classes = 0
    config.task.way, config.task.shot, config.task.query = chosen["way"], chosen["shot"], 15
    config.model.filters = 48
    config.inner.learning_rate = 0.01
    config.train.inner_steps = chosen["steps"]
    # Memory goes with the images of a meta-batch: fewer tasks of more shots.
    config.train.tasks_per_step = 4 if chosen["shot"] == 1 else 2
    config.train.multi_step_epochs = 15
    config.norm.eval_statistics = "batch,support"
    apply_protocol(config, chosen["protocol"])
    apply_method(config, chosen["method"])
    return config
