r"""CUB: 200 species of birds, 100/50/50, at 84x84 (Welinder et al., 2010; split of Chen et al., ICLR 2019).

    python -m mamlpp_jax.main --config=configs/cub.py:way=5,shot=1 --config.data.manual_dir=DIR

DIR is CUB_200_2011 as it was unpacked (images/<species>/), whose species in order train, validate, train and test in
turn; or images/ with lists of filename,label: train.csv, val.csv and test.csv. Images are not cropped to the birds.
A test of a run on mini-ImageNet, across domains:

    python -m mamlpp_jax.main --mode=evaluate --workdir=RUN --data_config=configs/cub.py \
        --data_config.data.manual_dir=DIR

Arguments: way, shot, method, steps, protocol and seed, as of configs/mini_imagenet.py, whose settings these are.
No accuracy has been measured with this code, and no published file was at hand: the reader is tested on written ones.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import photograph_config


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    return photograph_config("cub", argument)
