"""Few-shot models small enough for tests: untrained, of random weights."""

import numpy as np
from PIL import Image

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.trained_run import TrainedRun
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.learner import example_images, init_run_state, make_learner
from tests.helpers.saved_states import save_all
from tests.helpers.small_runs import SIZE, small_config

WAY = 3


def colour_config():
    """Photographs, normalised."""
    return small_config(**{"data.name": "mini_imagenet", "data.normalize": "imagenet"})


def small_model(config=None, members=1, channels=1):
    """A model of grey writing, or of the configuration's images; members differ by their seed."""
    config = config or small_config()
    shape = (SIZE, SIZE, channels)
    runs = []
    for seed in range(members):
        config.seed = seed
        state = init_run_state(config, example_images(shape))
        runs.append(
            TrainedRun(
                config,
                make_learner(config),
                state.meta,
                state.batch_stats,
                seed,
                example_images(shape),
            )
        )
    return from_runs(runs)


def small_workdir(folder, accuracies=None):
    """A run's folder with the checkpoints of some outer steps and their validation accuracies, without training."""
    workdir, config = Workdir(folder), small_config()
    workdir.claim(config)
    workdir.record_data("fingerprint", 1, {})
    state = init_run_state(config, example_images((SIZE, SIZE, 1)))
    with Checkpoints(folder, num_best=3, config=config.to_dict()) as checkpoints:
        save_all(checkpoints, state, accuracies or {2: 0.5, 4: 0.9, 6: 0.7})
    return folder


def drawings(count=6, side=24, seed=0):
    """Random strokes, black on white, uint8 [count, side, side]."""
    rng = np.random.default_rng(seed)
    images = np.full((count, side, side), 255, np.uint8)
    for image in images:
        for _ in range(3):
            row, column = rng.integers(4, side - 4, 2)
            image[row, 4 : side - 4] = image[4 : side - 4, column] = 0
    return images


def write_class_folders(folder, classes=WAY, per_class=2):
    """A folder per class of PNG files; returns the files' classes by path."""
    class_of = {}
    for number, image in enumerate(drawings(classes * per_class)):
        name = f"class {number // per_class}"
        path = folder / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        class_of[path] = name
    return class_of
