"""The six components of MAML++, each by what breaks when it is broken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, make_train_step
from tests.helpers.small_learner import (
    OPTIMIZER,
    STEPS,
    B,
    gradient_at,
    loss_at,
    make_episodes,
    make_learner,
    make_state,
    one_step,
    plan,
)


def test_msl_weighs_the_query_loss_of_every_step():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    per_step = [
        float(loss_at(learner, state, episodes, jnp.eye(STEPS)[i])[0]) for i in range(STEPS)
    ]
    assert abs(per_step[0] - per_step[1]) > 1e-3
    weights = jnp.array([0.3, 0.7])
    mixed = float(loss_at(learner, state, episodes, weights)[0])
    assert mixed == pytest.approx(0.3 * per_step[0] + 0.7 * per_step[1], rel=1e-5)
    last = float(loss_at(learner, state, episodes, weights, multi_step=False)[0])
    assert last == pytest.approx(per_step[1], rel=1e-5)


def test_without_msl_the_earlier_query_passes_are_not_computed():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()

    def flops(multi_step, order):
        step = make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=B)
        # Counted here, since the compiler's cost analysis takes a scan's body once.
        static = plan(order=order, multi_step=multi_step)
        return count_matmul_flops(jax.make_jaxpr(step)(state, episodes, static).jaxpr)

    assert flops(multi_step=False, order=2) < 0.9 * flops(multi_step=True, order=2)
    assert flops(multi_step=True, order=1) < 0.7 * flops(multi_step=True, order=2)


def count_matmul_flops(jaxpr, times=1):
    """Multiply-adds of every matrix product, a scan's body as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            a = equation.invars[0].aval
            total += times * equation.outvars[0].aval.size * np.prod([a.shape[i] for i in contract])
        inner_times = times * equation.params.get("length", 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += count_matmul_flops(inner, inner_times)
    return total


def test_da_switches_the_order_of_the_gradient_and_not_the_loss():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    losses = [loss_at(learner, state, episodes, order=order)[0] for order in (1, 2)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)
    first, second = (gradient_at(learner, state, episodes, order=order).params for order in (1, 2))
    difference = first["conv0"]["kernel"] - second["conv0"]["kernel"]
    assert float(jnp.abs(difference).max()) > 1e-3


def test_bnwb_gives_every_inner_step_its_own_scale_and_bias():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    gradient = gradient_at(learner, state, episodes, jnp.array([0.0, 1.0]))
    rows = np.asarray(gradient.norm["norm0"]["scale"])
    assert rows.shape == (STEPS, 4)
    assert np.abs(rows[0] - rows[1]).max() > 1e-5
    # The last loss looks at row 1 itself; row 0 matters only through the first update.
    first_order = gradient_at(learner, state, episodes, jnp.array([0.0, 1.0]), order=1)
    np.testing.assert_array_equal(first_order.norm["norm0"]["scale"][0], 0)
    shared = make_state(module, dataclasses.replace(learner, per_step_affine=False))
    assert shared.meta.norm["norm0"]["scale"].shape == (4,)


def test_shared_scale_is_the_sum_of_the_per_step_gradients():
    gradients = []
    for per_step in (True, False):
        module, learner = make_learner(per_step_affine=per_step)
        gradients.append(gradient_at(learner, make_state(module, learner), make_episodes()).norm)
    rows, shared = gradients
    np.testing.assert_allclose(
        rows["norm0"]["scale"].sum(0), shared["norm0"]["scale"], rtol=1e-3, atol=1e-5
    )


def running_by_hand(running, passes, momentum=0.9):
    """The design's rule, one pass after another."""
    for moments in passes:
        count = float(moments["count"])
        unbiased = np.asarray(moments["var"]) * count / (count - 1)
        target = {"mean": np.asarray(moments["mean"]), "var": unbiased}
        running = {k: momentum * running[k] + (1 - momentum) * target[k] for k in running}
    return running


@pytest.mark.parametrize("multi_step", [True, False])
@pytest.mark.parametrize("per_step", [True, False])
def test_bnrs_updates_the_row_of_each_pass_in_order(per_step, multi_step):
    module, learner = make_learner(per_step_statistics=per_step)
    state, episodes = make_state(module, learner), make_episodes()
    # Start values that are not those of a fresh model.
    state = state._replace(batch_stats=jax.tree.map(lambda leaf: leaf + 0.5, state.batch_stats))
    new, _ = one_step(learner, state, episodes, multi_step=multi_step)
    _, aux = loss_at(learner, state, episodes, multi_step=multi_step)
    for layer in state.batch_stats:
        support = [
            jax.tree.map(lambda x, i=i: x[i], aux.support_moments[layer]) for i in range(STEPS)
        ]
        query = [jax.tree.map(lambda x: x[-1], aux.query_moments[layer])] * STEPS
        if multi_step:
            query = [
                jax.tree.map(lambda x, i=i: x[i], aux.query_moments[layer]) for i in range(STEPS)
            ]
        passes = [
            [support[i], query[i]] if multi_step or i == STEPS - 1 else [support[i]]
            for i in range(STEPS)
        ]
        old = jax.tree.map(np.asarray, state.batch_stats[layer])
        if per_step:
            rows = [
                running_by_hand({k: v[i] for k, v in old.items()}, p) for i, p in enumerate(passes)
            ]
            expected = {k: np.stack([row[k] for row in rows]) for k in old}
        else:
            expected = running_by_hand(old, [moments for pair in passes for moments in pair])
        for name, value in expected.items():
            np.testing.assert_allclose(new.batch_stats[layer][name], value, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_first_layer_computed_directly():
    """The mean over tasks of the mean of conv0's output on the support set, bias included."""
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    params = dict(state.meta.params)
    params["conv0"] = {**params["conv0"], "bias": jnp.arange(4.0)}
    state = state._replace(meta=state.meta._replace(params=params))
    _, aux = loss_at(learner, state, episodes)
    outputs = jax.vmap(
        lambda x: jax.lax.conv_general_dilated(
            x, params["conv0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )(episodes.support.inputs) + jnp.arange(4.0)
    expected = outputs.mean((1, 2, 3)).mean(0)
    np.testing.assert_allclose(aux.support_moments["norm0"]["mean"][0], expected, atol=1e-5)


def test_running_statistics_matter_only_when_they_normalise():
    for statistics, matters in (("batch", False), ("support", False), ("running", True)):
        module, learner = make_learner(statistics=statistics)
        state, episodes = make_state(module, learner), make_episodes()
        before = loss_at(learner, state, episodes)[0]
        moved = jax.tree.map(lambda leaf: leaf * 2 + 0.3, state.batch_stats)
        after = loss_at(learner, state._replace(batch_stats=moved), episodes)[0]
        assert (abs(float(before) - float(after)) > 1e-4) == matters


def test_running_rows_are_read_by_their_own_step():
    module, learner = make_learner(statistics="running")
    state, episodes = make_state(module, learner), make_episodes()
    moved = jax.tree.map(lambda leaf: leaf.at[1].add(0.7), state.batch_stats)
    both = [
        loss_at(learner, s, episodes, jnp.array([1.0, 0.0]))[0]
        for s in (state, state._replace(batch_stats=moved))
    ]
    assert float(both[0]) == float(both[1])  # step 0 never reads row 1


def test_lslr_learns_one_rate_per_tensor_and_step():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    assert all(leaf.shape == (STEPS,) for leaf in jax.tree.leaves(state.meta.inner))
    new, _ = one_step(learner, state, episodes)
    for tensor in ("kernel", "bias"):
        assert np.all(np.asarray(new.meta.inner["linear"][tensor]) != np.float32(0.1))
    _, plain = make_learner(inner_optimizer=sgd(0.1))
    assert jax.tree.leaves(make_state(module, plain).meta.inner) == []


@pytest.mark.parametrize("order", [1, 2])
def test_remat_and_unrolling_change_nothing_but_rounding(order):
    with jax.enable_x64(True):
        gradients = []
        for remat, unroll in ((False, 5), (False, 1), (True, 5)):
            module, learner = make_learner(remat=remat, unroll=unroll)
            state = make_state(module, learner)
            gradient = jax.grad(
                lambda meta, learner=learner, state=state: meta_loss(
                    learner, meta, state.batch_stats, make_episodes(), plan(order=order)
                )[0]
            )
            gradients.append(jax.jit(gradient)(state.meta))
        for other in gradients[1:]:
            for a, b in zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
