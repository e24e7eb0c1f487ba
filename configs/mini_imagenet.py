"""mini-ImageNet, 5-way, 1- or 5-shot, 84x84 colour, with every method, by the paper's protocol or another one.

    python -m mamlpp_jax.main --config=configs/mini_imagenet.py:way=5,shot=1,method=maml++ \
        --config.data.manual_dir=DIR

Arguments: way, shot, method (maml, maml++, or any combination of the names in mamlpp_jax/config/methods.py, such as
maml+msl+lslr), steps (inner steps, 1 to 5 in the paper), protocol and seed. The protocols are

    paper     150 epochs of 500 outer steps, inner rates from 0.01
    released  what the authors' published configurations run: 100 epochs of 2 tasks, second order from the start,
              a constant outer rate in every method (the component ca has no effect), outer gradients clamped to
              +-10, inner rates from 0.1
    short     the paper's with 10 epochs of 2 tasks, its annealing shortened alike
    compact   the paper's with 60 epochs of 2 tasks, its annealing shortened alike: about ten hours of 2 CPU cores

and mamlpp_jax/config/protocols.py has the rest of their settings.

DIR holds mini-ImageNet in one of three forms: `images/` (a folder, or zip archives holding it) with Ravi &
Larochelle's train.csv, val.csv and test.csv; the folders train, val and test with a folder per class; or the three
mini-imagenet-cache-*.pkl files. It is needed once: what was prepared is cached. To see what the model will see:

    python -m mamlpp_jax.data --config=configs/mini_imagenet.py --config.data.manual_dir=DIR --contact_sheet=sheet.png

Published test accuracy of MAML++, 5-way: 52.15 % 1-shot, 68.32 % 5-shot.

Measured on this code: no whole run yet. Shortened to 500 first-order outer steps of 8 tasks (one seed, batch
statistics), 5-way 1-shot MAML++ reaches 30.46 ± 0.94 % validation accuracy, in 50 to 80 minutes on 2 CPU cores; to
1,000 second-order outer steps of 2 tasks, 32.93 ± 1.16 % in the test (200 tasks). docs/guide/data.md has the commands.

The paper prints a split of 64/12/24 classes; these are Ravi & Larochelle's files, 64/16/20.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import photograph_config


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    return photograph_config("mini_imagenet", argument)
