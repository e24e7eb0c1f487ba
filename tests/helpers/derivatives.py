"""First and second derivatives of functions of two arrays."""

import jax
import jax.numpy as jnp


def second_derivatives(function, x, w):
    """Values, and gradients that go through every partial gradient, differentiated once more."""

    def inner(x, w):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(function(x, w)))

    def outer(x, w):
        dx, dw = jax.grad(inner, (0, 1))(x, w)
        return jnp.sum(jnp.cos(dx)) + jnp.sum(dw**3)

    def everything(x, w):
        return function(x, w), jax.grad(inner, (0, 1))(x, w), jax.grad(outer, (0, 1))(x, w)

    return jax.jit(everything)(x, w)
