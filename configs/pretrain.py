"""The supervised stage before meta-learning on mini-ImageNet: ResNet-12 with one head for all training classes.

    python -m mamlpp_jax.main --mode=pretrain --config=configs/pretrain.py --workdir=runs/pretrained \
        --config.data.manual_dir=DIR
    python -m mamlpp_jax.main --config=configs/mini_imagenet.py:method=anil+sharedhead --config.model.name=resnet12 \
        --config.model.filters=16 --config.model.normalize_features=True --config.train.start_from=runs/pretrained \
        --config.data.manual_dir=DIR

Arguments: filters (of the first block: 16 for 16-32-64-128), epochs (of about all training images each) and seed.

Batches of 64 images in two halves, each normalised by its own moments; random crops, flips and colours; label
smoothing; Adam along a cosine. The best epoch is chosen by nearest-centroid tasks of the validation classes, each query
alone by the running statistics. The test classes are never read.

Measured: 20 epochs of 16 filters, one seed: 50.2 % in 100 such tasks, 5-way 1-shot. An epoch took about five minutes of
two cores of a Xeon with AVX-512 (experiments/results/mini_imagenet-pretrain-resnet12_16-seed0). The model `photos` is
made from it; `python -m experiments.pretrained --models=photos` has all fields of its second stage.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import apply_method, default_config, parse_argument


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of a supervised stage; see the module's docstring."""
    chosen = parse_argument(argument, {"filters": 16, "epochs": 60, "seed": 0})
    config = default_config()
    config.experiment = "mini_imagenet-pretrain"
    config.seed = chosen["seed"]
    config.data.name = "mini_imagenet"
    config.data.image_size = 84
    config.data.normalize = "imagenet"
    config.data.rotations = False
    config.data.train_classes, config.data.val_classes, config.data.test_classes = 64, 0, 0
    config.data.augment = True
    config.task.way, config.task.shot, config.task.query = 5, 1, 15
    config.model.name, config.model.filters = "resnet12", chosen["filters"]
    config.train.epochs, config.train.steps_per_epoch = chosen["epochs"], 600
    config.train.tasks_per_step, config.train.images_per_task = 2, 32
    config.train.label_smoothing = 0.1
    apply_method(config, "supervised")
    config.train.inner_steps = 1
    return config
