"""CIFAR-FS: the 100 classes of CIFAR-100, 64/16/20, at 32x32 (Bertinetto et al., ICLR 2019).

    python -m mamlpp_jax.main --config=configs/cifar_fs.py:way=5,shot=1 --config.data.manual_dir=DIR

DIR holds one of these forms: cifar100.zip unpacked (data/<class>/ with splits/bertinetto/train.txt and so on);
the folders train, val and test; CIFAR_FS_train.pickle, CIFAR_FS_val.pickle, CIFAR_FS_test.pickle; class folders of
CIFAR-100, which get the published split. --config.data.tfds_dir=ROOT reads TFDS's cifar100 instead.

Arguments: way, shot, method, steps, protocol and seed, as of configs/mini_imagenet.py, whose settings these are.
No accuracy has been measured with this code, and no published file was at hand: the reader is tested on written ones.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import photograph_config


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    return photograph_config("cifar_fs", argument, image_size=32)
