"""Your own photographs: ways, shots, tasks and steps chosen for the folder at hand, and said.

    python -m mamlpp_jax.main --config=own_images:dir=DIR

DIR has a folder per class, at any depth, or any other layout of mamlpp_jax/data/readers/layouts.py. The choice is
printed; --config.FIELD=VALUE changes any of it, and so do the arguments: way and shot (0: chosen), minutes (of training
on two cores; 10), start (`photos`, another trained model or a run; none to start anew), method (that of the
start, or maml++) and seed. Classes with fewer images than shot + query are left out and named.

Three groups of classes are made: one to train on, one to choose the best epoch by, one to test on. With fewer than six
classes there is nothing to learn from: use mamlpp_jax.predict with a trained model.
"""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config import FEW_CLASSES, apply_method, default_config, parse_argument
from mamlpp_jax.data.readers.layouts import find_layout
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.inference.pretrained import find_folder, shipped_models
from mamlpp_jax.inference.saved_model import CONFIG

# Passes of images through the network that two cores train on in a second, about: 84 pixels, first order.
PASSES_PER_SECOND = 100


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration for one folder; see the module's docstring."""
    defaults = {"dir": "", "way": 0, "shot": 0, "minutes": 10, "start": "photos", "method": ""}
    chosen = parse_argument(argument, {**defaults, "seed": 0})
    if not chosen["dir"]:
        raise ConfigError(
            "own_images needs the folder of your images: --config=own_images:dir=DIR."
        )
    folder = Path(chosen["dir"]).expanduser()
    splits = {
        split: sorted(map(len, classes.values()))
        for split, classes in find_layout(folder).listing.items()
    }
    sizes = sorted(size for of in splits.values() for size in of)
    usual = sizes[len(sizes) // 4]  # three of four classes have as many images or more
    shot = chosen["shot"] or max(1, min(5, usual // 3))
    query = max(1, min(5, usual - shot))
    enough = {split: sum(size >= shot + query for size in of) for split, of in splits.items()}
    most = enough[""] // 3 if "" in enough else min(enough.values())
    if most < 2:
        raise ConfigError(
            f"{folder} has {sum(enough.values())} classes of {shot + query} images or more; training takes six, two "
            f"each to train on, to choose by and to test on.{FEW_CLASSES}"
        )
    way = chosen["way"] or min(5, most)

    config = _starting_from("" if chosen["start"] == "none" else chosen["start"], chosen["method"])
    config.experiment = f"own_images-{way}way-{shot}shot"
    config.seed = chosen["seed"]
    config.data.name = "image_folder"
    config.data.manual_dir = chosen["dir"]
    config.data.smallest_class = shot + query
    config.data.train_classes = config.data.val_classes = config.data.test_classes = 0
    config.task.way, config.task.shot, config.task.query = way, shot, query
    config.train.tasks_per_step = 2
    # Of a task; where the head alone is adapted, features are computed once.
    steps = 1 if config.inner.adapts == "head" else config.train.inner_steps
    passes = way * (shot * steps + query)
    tasks = 60 * chosen["minutes"] * PASSES_PER_SECOND / passes
    config.train.epochs = 5
    # Testing a task takes about as long as training on one: validations, the test of three epochs and the trial of more
    # inner steps together take less than the training does.
    config.train.steps_per_epoch = max(5, round(tasks * 2 / 3 / 2 / config.train.epochs))
    config.evaluation.tasks = min(600, max(20, round(tasks / 25)))
    config.evaluation.most_inner_steps = 20
    left_out = len(sizes) - sum(enough.values())
    each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    print(
        f"own images: {len(sizes)} classes of {each} images"
        + (f", {left_out} of them with fewer than {shot + query} left out" if left_out else "")
        + f". Chosen for them and for about {chosen['minutes']} minutes on two cores: tasks of {way} classes, of each "
        f"{shot} images to learn from and {query} to classify; "
        f"{config.train.epochs * config.train.steps_per_epoch} outer steps of 2 tasks; {config.evaluation.tasks} tasks "
        f"in each validation and in the test; method {config.method}, {_from(config.train.start_from)}. Choose "
        "otherwise by own_images:dir=DIR,way=3,shot=2,minutes=30.",
        file=sys.stderr,
    )
    return config


def _from(start: str) -> str:
    return f"starting from the model {start}" if start else "starting anew"


def _starting_from(start: str, method: str) -> ConfigDict:
    """Model and inner loop of trained weights, or MAML++'s anew."""
    config = default_config()
    config.data.update(image_size=84, channels=3, normalize="imagenet", rotations=False)
    config.train.first_order_epochs = 5  # second order takes twice the time
    config.train.multi_step_epochs = 2
    if not start:
        config.model.filters = 48
        config.inner.learning_rate = 0.01
        config.norm.eval_statistics = "support,batch"
        apply_method(config, method or "maml++")
        return config
    if not (find_folder(start) / CONFIG).is_file():
        raise ConfigError(
            f"own_images: start is {start!r}, neither a trained model ({', '.join(shipped_models())}) nor the folder "
            "of one or of a run; start=none begins anew."
        )
    trained = Workdir(find_folder(start)).config()  # its weights are read by the run
    config.train.start_from = start
    # Images unlike the start's ask for more than fine tuning. Chosen by validation accuracy, starting from `photos`, on
    # two folders drawn as in experiments/own_images.py: above 3e-5 on both, and above 1e-3 on the one it was tried on.
    config.train.learning_rate = 3e-4
    for name in ("clip_norm", "inner_steps"):
        config.train[name] = trained.train[name]
    for name in ("image_size", "channels", "normalize"):
        config.data[name] = trained.data[name]
    for section in ("model", "norm", "inner"):
        config[section].update(trained[section])
    config.method = trained.method
    apply_method(config, method or trained.method)
    if config.inner.adapts != trained.inner.adapts:
        config.inner.learning_rate = 0.01  # the start's is for what its own inner loop adapts
    return config
