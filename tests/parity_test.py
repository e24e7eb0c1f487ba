"""Agreement with the authors' released implementation, run in float64 (tests/reference/README.md).

Every `.npz` of `MAMLPP_REFERENCE_DIR`, or of `tests/reference/`, is one test.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms import schedules
from mamlpp_jax.algorithms.inner_optimizers import lslr
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, make_train_step
from mamlpp_jax.models import Conv4, make_forward
from mamlpp_jax.ops.conv import IMPL_NAMES
from mamlpp_jax.types import Batch, Episode, MetaParams, MetaState, StepPlan

DEFAULT = pathlib.Path(__file__).parent / "reference"
DIRECTORY = pathlib.Path(os.environ.get("MAMLPP_REFERENCE_DIR", DEFAULT))
FILES = sorted(DIRECTORY.glob("*.npz"))
# Of the committed files, in `make test`: both orders, both losses, colour and shared statistics.
QUICK = {
    *("mamlpp_first_order", "mamlpp_second_order", "msl_annealed_epoch7", "colour_84"),
    "shared_bn_one_step",
}
EACH = [
    pytest.param(
        path,
        id=path.stem,
        marks=() if path.stem in QUICK or DIRECTORY != DEFAULT else pytest.mark.slow,
    )
    for path in FILES
]


def tree(arrays, prefix):
    """Nested dict of the arrays whose key starts with `prefix`/."""
    result = {}
    for key, value in arrays.items():
        if key.startswith(prefix + "/"):
            *path, leaf = key[len(prefix) + 1 :].split("/")
            node = result
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = jnp.asarray(value, jnp.float64)
    return result


def meta_params(arrays, prefix):
    norm = tree(arrays, f"{prefix}/norm")
    norm = {name.replace("conv", "norm"): leaves for name, leaves in norm.items()}
    return MetaParams(tree(arrays, f"{prefix}/params"), norm, tree(arrays, f"{prefix}/inner_lr"))


def episodes(arrays, batch):
    def read(part):
        images, labels = (arrays[f"batch{batch}/{part}_{name}"] for name in ("images", "labels"))
        return Batch(jnp.asarray(images, jnp.float64), jnp.asarray(labels, jnp.int32))

    return Episode(read("support"), read("query"))


def learner_of(arrays, conv="auto"):
    module = Conv4(
        ways=int(arrays["config/way"]),
        filters=int(arrays["config/filters"]),
        max_pool=bool(arrays["config/max_pool"]),
        conv=conv,
    )
    inner = lslr(float(arrays["config/inner_lr"]))
    per_step = bool(arrays["config/per_step_bn"])
    return Learner(
        make_forward(module),
        inner,
        int(arrays["config/steps"]),
        per_step_affine=per_step,
        per_step_statistics=per_step,
    )


def plan_of(arrays):
    msl_epochs = int(arrays["config/msl_epochs"]) if arrays["config/msl"] else 0
    return StepPlan(
        weights=jnp.asarray(arrays["msl_weights"], jnp.float64),
        order=int(arrays["config/order"]),
        multi_step=int(arrays["config/epoch"]) < msl_epochs,
    )


def start_stats(norm):
    """Running statistics of the right shape; `batch` statistics do not read them."""
    return {
        layer: {"mean": jnp.zeros_like(v["bias"]), "var": jnp.ones_like(v["scale"])}
        for layer, v in norm.items()
    }


def assert_trees_close(ours, theirs, tolerance, scale=1.0):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    paths = jax.tree_util.tree_leaves_with_path(ours)
    for (path, a), b in zip(paths, jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        error = float(jnp.max(jnp.abs(a - b), initial=0.0))
        assert error <= tolerance * scale, f"{jax.tree_util.keystr(path)} is off by {error:.3g}"


def largest(pytree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(pytree))


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_there_are_reference_files():
    assert FILES, f"no .npz in {DIRECTORY}; set MAMLPP_REFERENCE_DIR or restore tests/reference/"


@pytest.mark.parametrize("path", EACH)
def test_matches_the_authors_implementation(path):
    with jax.enable_x64(True):
        check_against(load(path), conv="auto", chunk=None)


def check_against(arrays, *, conv, chunk):
    learner, plan = learner_of(arrays, conv), plan_of(arrays)
    meta = meta_params(arrays, "init")
    stats = start_stats(meta.norm)
    batch = episodes(arrays, 0)

    logits = jax.jit(lambda meta: meta_loss(learner, meta, stats, batch, plan)[1].outputs)(meta)
    logits_scale = max(1.0, float(np.max(np.abs(arrays["query_logits"]))))
    np.testing.assert_allclose(logits, arrays["query_logits"], rtol=0, atol=1e-9 * logits_scale)

    check_three_updates(arrays, learner, meta, stats, plan, chunk)


def keep_gradient():
    """Passes the meta-gradient on, and keeps it as its state."""
    return optax.GradientTransformation(lambda meta: meta, lambda gradient, *_: (gradient,) * 2)


def check_three_updates(arrays, learner, meta, stats, plan, chunk):
    adam = optax.adam(float(arrays["config/outer_lr"]), b1=0.9, b2=0.999, eps=1e-8)
    optimizer = optax.chain(keep_gradient(), adam)
    train_step = make_train_step(
        learner,
        optimizer,
        fixed_tasks,
        tasks_per_step=int(arrays["config/tasks"]),
        tasks_per_chunk=chunk,
    )
    train_step = jax.jit(train_step)
    state = MetaState(jnp.zeros((), jnp.int32), meta, stats, optimizer.init(meta))
    for batch, tolerance in enumerate((1e-9, 1e-8, 1e-8)):
        state, metrics = train_step(state, episodes(arrays, batch), plan)
        np.testing.assert_allclose(metrics.loss, arrays["losses"][batch], rtol=0, atol=tolerance)
        np.testing.assert_allclose(metrics.metric, arrays["accuracies"][batch], atol=1e-6)
        if batch == 0:
            expected = meta_params(arrays, "meta_grad")
            found = state.opt_state[0]
            assert_trees_close(found, expected, tolerance, max(1.0, largest(expected)))
    assert_trees_close(state.meta, meta_params(arrays, "final"), 1e-8)


def test_multi_step_weights_are_the_authors():
    for path in FILES:
        arrays = load(path)
        epoch, epochs = int(arrays["config/epoch"]), int(arrays["config/msl_epochs"])
        if not (arrays["config/msl"] and epoch < epochs):
            continue
        ours = schedules.multi_step_weights(epoch, int(arrays["config/steps"]), epochs)
        np.testing.assert_allclose(ours, arrays["msl_weights"], atol=1e-7, err_msg=str(path))


SMALL = [path for path in FILES if path.stem == "shared_bn_one_step"] or FILES[:1]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
@pytest.mark.parametrize(("conv", "chunk"), [("xla", None), ("direct", 1)])
@pytest.mark.slow
def test_parity_does_not_depend_on_convolution_or_chunk(path, conv, chunk):
    with jax.enable_x64(True):
        check_against(load(path), conv=conv, chunk=chunk)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("conv", "chunk"), [*((conv, None) for conv in IMPL_NAMES if conv != "auto"), ("auto", 1)]
)
def test_parity_of_every_convolution_and_chunk(path, conv, chunk):
    with jax.enable_x64(True):
        check_against(load(path), conv=conv, chunk=chunk)
