"""bfloat16 products against float32 ones, on real Omniglot; needs the data."""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from configs import omniglot
from mamlpp_jax.algorithms.outer_loop import mean_over_chunks, meta_gradient
from mamlpp_jax.data.sources.registry import load_dataset
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.jitted import jitted_train_steps
from mamlpp_jax.types import StepPlan

TASKS, STEPS = 16, 400


def experiments(tmp_path):
    """The same run with float32 and with bfloat16 products."""
    for dtype in ("float32", "bfloat16"):
        config = omniglot.get_config("way=5,shot=1,method=maml++")
        config.data.tfds_dir = str(pathlib.Path(os.environ["MAMLPP_DATA_DIR"]) / "tfds")
        config.data.cache_dir = str(tmp_path)
        config.compute.devices = 1
        config.model.dtype = dtype
        yield build_experiment(config, load_dataset(config.data), ["train"])


def plan(order):
    return StepPlan(jnp.full(5, 0.2), order, multi_step=True)


def gradient_of(experiment, state, order):
    stream = experiment.tasks["train"]

    def gradient(state, source):
        def chunk(indices):
            episodes = stream.sample_tasks(source, state.step, indices)
            return meta_gradient(
                experiment.learner, state.meta, state.batch_stats, episodes, plan(order)
            )

        return mean_over_chunks(chunk, jnp.arange(TASKS).reshape(TASKS, 1)).gradient

    leaves = jax.tree.leaves(jax.jit(gradient)(state, stream.window(range(1), range(TASKS))))
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


@pytest.mark.slow
def test_bfloat16_meta_gradients_point_the_same_way(tmp_path):
    """After some training: a fresh network's five-step gradient is noise in any precision.

    Weights changed by 0.2 % turn the second-order meta-gradient of a fresh network to a cosine of 0.4.
    """
    if not os.environ.get("MAMLPP_DATA_DIR"):
        pytest.skip("set MAMLPP_DATA_DIR to a folder with tfds/omniglot")
    full, half = experiments(tmp_path)
    state, train_step = full.init_run_state(), jitted_train_steps(full, 10)
    source = full.tasks["train"].window(range(1), range(TASKS))
    for _ in range(STEPS // 10):
        state, _ = train_step(state, source, plan(order=1))
    for order in (1, 2):
        a, b = gradient_of(full, state, order), gradient_of(half, state, order)
        cosine = a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
        assert cosine >= 0.99, f"order {order}: {cosine}"
