"""Omniglot, 5- or 20-way, 1- or 5-shot, with every method of Table 1, by the paper's protocol or another one.

    python -m mamlpp_jax.main --config=configs/omniglot.py:way=20,shot=1,method=maml++

Arguments: way, shot, method (maml, maml++, maml+msl, maml+da, maml+bnrs+bnwb, maml+lslr, maml+ca, any other
combination of components, and the methods of mamlpp_jax/config/methods.py), protocol and seed. The protocols are

    paper     150 epochs of 500 outer steps of 16 tasks
    released  what the authors' published configurations run: 100 epochs of 8 tasks, second order from the start,
              the cosine held during an epoch and in every method, MAML too, classes rotated in training only
    short     the paper's with 10 epochs of 8 tasks, its annealing shortened alike

and mamlpp_jax/config/protocols.py has the rest of their settings.

The data are downloaded, or taken from --config.data.manual_dir (the two official archives) or
--config.data.tfds_dir (a prepared TFDS directory).

Published test accuracy of MAML++, 20-way 1-shot, mean of 3 seeds: 97.65 % (Table 1; the text has 97.76 %).

Measured: the paper's whole protocol not yet. By protocol=released, in full (50,000 outer steps), way=5, shot=1,
method=maml++, seed 0, trained with `batch` statistics: test accuracy of the ensemble on 6,000 tasks 99.52 ± 0.08 %
with `batch`, 98.34 ± 0.14 % with `support` statistics, on 2 CPU cores (AMD EPYC, JAX 0.10.2), at commit
29b9d30, in about four hours. By protocol=short (5,000 outer steps, 20 minutes), way=5, shot=1, method=maml++, seeds 0
to 2, trained with `batch` statistics: 98.93 ± 0.13 % with `batch`, 96.39 ± 0.34 % with `support` statistics (mean ±
standard deviation over seeds; ensemble, 6,000 tasks), on 2 CPU cores (AMD EPYC, JAX 0.10.2), at commit d5d355d. The
same with way=20 and seed 0: 95.08 and 94.29 %, on one NVIDIA H200 (JAX 0.11.2), at commit 02e27bc. `released` does not
rotate test classes, `short` does; docs/results has all runs. docs/guide/methods.md has the other methods.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import apply_method, apply_protocol, default_config, parse_argument


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    chosen = parse_argument(
        argument, {"way": 5, "shot": 1, "method": "maml++", "protocol": "paper", "seed": 0}
    )
    config = default_config()
    config.experiment = f"omniglot-{chosen['way']}way-{chosen['shot']}shot"
    config.task.way, config.task.shot = chosen["way"], chosen["shot"]
    config.seed = chosen["seed"]
    config.norm.eval_statistics = "batch,support"
    apply_protocol(config, chosen["protocol"])
    apply_method(config, chosen["method"])
    return config
