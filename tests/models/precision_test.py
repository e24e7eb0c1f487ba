"""bfloat16 products against float32 ones, on real Omniglot; needs the data."""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from configs import omniglot
from mamlpp_jax.algorithms.outer_loop import meta_gradient
from mamlpp_jax.data.sources.registry import load_dataset
from mamlpp_jax.training.experiment import build
from mamlpp_jax.training.trainer import compiled_train_steps

TASKS, STEPS = 16, 400


def programs(tmp_path):
    """The same run with float32 and with bfloat16 products."""
    for dtype in ("float32", "bfloat16"):
        config = omniglot.get_config("way=5,shot=1,method=maml++")
        config.data.tfds_dir = str(pathlib.Path(os.environ["MAMLPP_DATA_DIR"]) / "tfds")
        config.data.cache_dir = str(tmp_path)
        config.compute.devices = 1
        config.model.dtype = dtype
        yield build(config, load_dataset(config.data), ["train"])


def gradient_of(program, state, order):
    def gradient(state, source):
        return meta_gradient(
            program.learner,
            state.meta,
            state.batch_stats,
            lambda indices: program.draw(source, state.step, indices),
            jnp.arange(TASKS).reshape(TASKS, 1),
            jnp.full(5, 0.2),
            order=order,
            multi_step=True,
        ).gradient

    leaves = jax.tree.leaves(jax.jit(gradient)(state, program.sources["train"]))
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


@pytest.mark.slow
def test_bfloat16_meta_gradients_point_the_same_way(tmp_path):
    """After some training: a fresh network's five-step gradient is noise in any precision.

    Weights changed by 0.2 % turn the second-order meta-gradient of a fresh network to a cosine of 0.4.
    """
    if not os.environ.get("MAMLPP_DATA_DIR"):
        pytest.skip("set MAMLPP_DATA_DIR to a folder with tfds/omniglot")
    full, half = programs(tmp_path)
    state, train_step = full.init_state(), compiled_train_steps(full, 10)
    for _ in range(STEPS // 10):
        state, _ = train_step(
            state, full.sources["train"], jnp.full(5, 0.2), order=1, multi_step=True
        )
    for order in (1, 2):
        a, b = gradient_of(full, state, order), gradient_of(half, state, order)
        cosine = a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
        assert cosine >= 0.99, f"order {order}: {cosine}"
