"""A run small enough for tests: a data set of patterns and a configuration of seconds."""

import numpy as np

from mamlpp_jax.config import apply_method, default_config
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.training.experiment import build_experiment

CLASSES, PER_CLASS, SIZE = 16, 6, 16


def patterns():
    """Classes are random patterns, images noisy copies of them."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, size=(CLASSES, 1, SIZE, SIZE, 1))
    noise = rng.integers(-40, 40, size=(CLASSES, PER_CLASS, SIZE, SIZE, 1))
    images = np.clip(pattern + noise, 0, 255).astype(np.uint8)
    names = tuple(f"class{i:02d}" for i in range(CLASSES))
    sizes = np.full(CLASSES, PER_CLASS, np.int32)
    return Dataset("glyphs", images.reshape(-1, SIZE, SIZE, 1), names, sizes)


def small_config(method="maml++", **fields):
    """Three epochs of two steps; MAML++ meets all three (order, multi-step) pairs."""
    config = default_config()
    config.experiment = "small"
    config.data.name = "glyphs"
    config.data.image_size = SIZE
    config.data.rotations = False
    config.data.train_classes, config.data.val_classes, config.data.test_classes = 8, 4, 4
    config.task.way = 3
    config.model.filters = 4
    config.train.epochs, config.train.steps_per_epoch = 3, 2
    config.train.tasks_per_step, config.train.inner_steps = 2, 2
    config.train.first_order_epochs, config.train.multi_step_epochs = 1, 2
    config.evaluation.tasks = 4
    config.compute.devices = 1
    config.log.tensorboard = False
    apply_method(config, method)
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return config


def small_experiment(method="maml++", **fields):
    """The parts of a small run on the patterns."""
    return build_experiment(small_config(method, **fields), patterns())
