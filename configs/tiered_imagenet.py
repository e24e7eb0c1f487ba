"""tieredImageNet: 608 classes by ImageNet's higher categories, 351/97/160, at 84x84 (Ren et al., ICLR 2018).

    python -m mamlpp_jax.main --config=configs/tiered_imagenet.py:way=5,shot=1 --config.data.manual_dir=DIR

DIR holds train_images_png.pkl with train_labels.pkl, and the same for val and test, or the folders train, val and test.
779,165 images take 15.4 GiB at 84 pixels, and the largest pickle is read at once: both are compared with the memory of
the machine first; --config.data.image_size=48 needs a third. Colours are taken as the PNG files have them.

Arguments: way, shot, method, steps, protocol and seed, as of configs/mini_imagenet.py, whose settings these are.
No accuracy has been measured with this code, and no published file was at hand: the reader is tested on written ones.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import photograph_config


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    return photograph_config("tiered_imagenet", argument)
