"""FC100: the 100 classes of CIFAR-100, split by superclass 60/20/20, at 32x32 (Oreshkin et al., NeurIPS 2018).

    python -m mamlpp_jax.main --config=configs/fc100.py:way=5,shot=1 --config.data.manual_dir=DIR

DIR holds FC100_train.pickle, FC100_val.pickle and FC100_test.pickle; the folders train, val and test; or class folders
of CIFAR-100, which get the published split. --config.data.tfds_dir=ROOT reads TFDS's cifar100 instead.

Arguments: way, shot, method, steps, protocol and seed, as of configs/mini_imagenet.py, whose settings these are.
No accuracy has been measured with this code, and no published file was at hand: the reader is tested on written ones.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import photograph_config


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    return photograph_config("fc100", argument, image_size=32)
