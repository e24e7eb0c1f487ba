"""What a compiled program does is counted from its text, for any back end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.gpu.hlo import parse

# As a GPU's compiler writes it: a convolution and its two gradients, a loop that reads and writes slices.
GPU = """
%read (p: f32[5,4], i: s32[]) -> f32[4] {
  %p = f32[5,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,4}
  ROOT %flat = f32[4]{0} bitcast(%row)
}

%write (p.1: f32[5,4], row.1: f32[4], i.1: s32[]) -> f32[5,4] {
  %p.1 = f32[5,4]{1,0} parameter(0)
  %row.1 = f32[4]{0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %wide = f32[1,4]{1,0} bitcast(%row.1)
  ROOT %new = f32[5,4]{1,0} dynamic-update-slice(%p.1, %wide, %i.1, %zero.1)
}

%body (s: (s32[], f32[5,4])) -> (s32[], f32[5,4]) {
  %s = (s32[], f32[5,4]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %all = f32[5,4]{1,0} get-tuple-element(%s), index=1
  %one = f32[4]{0} fusion(%all, %n), kind=kLoop, calls=%read
  %put = f32[5,4]{1,0} fusion(%all, %one, %n), kind=kLoop, calls=%write
  ROOT %next = (s32[], f32[5,4]{1,0}) tuple(%n, %put)
}

%c (c: (s32[], f32[5,4])) -> pred[] {
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[2,8,8,3], k: f32[16,3,3,3], y: f32[2,8,8,16], t: (s32[], f32[5,4])) -> f32[2,8,8,16] {
  %x = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[16,3,3,3]{3,2,1,0} parameter(1)
  %y = f32[2,8,8,16]{3,2,1,0} parameter(2)
  %t = (s32[], f32[5,4]{1,0}) parameter(3)
  %loop = (s32[], f32[5,4]{1,0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %dx = (f32[2,8,8,3]{3,2,1,0}) custom-call(%y, %k), LABELS, custom_call_target="__cudnn$convBackwardInput"
  %dw = (f32[16,3,3,3]{3,2,1,0}) custom-call(%x, %y), LABELS, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %conv = (f32[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), LABELS, custom_call_target="__cudnn$convForward"
}
""".replace("LABELS", "dim_labels=b01f_o01i->b01f")


def compiled(function, *arguments):
    return parse(jax.jit(function).lower(*arguments).compile().as_text()).kernels()


def test_a_product_in_a_loop_counts_as_often_as_it_runs():
    weights = jnp.ones((5, 64, 64))

    def loop(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    kernels = compiled(loop, jnp.ones((48, 64)), weights)
    assert sum(k.times * k.flop for k in kernels) == 5 * 2 * 48 * 64 * 64


def test_an_elementwise_function_reads_and_writes_once():
    (kernel,) = compiled(lambda x, y: jnp.tanh(x * y) + 1, jnp.ones(1000), jnp.ones(1000))
    assert kernel.bytes == 3 * 4 * 1000
    assert kernel.flop == 0


def test_a_gpu_s_convolutions_and_slices():
    kernels = {k.name: k for k in parse(GPU).kernels()}
    flop = 2 * (2 * 8 * 8 * 16) * (3 * 3 * 3)
    assert [kernels[name].flop for name in ("%conv", "%dx", "%dw")] == [flop] * 3
    assert kernels["%conv"].bytes == 4 * np.sum([2 * 64 * 3, 16 * 27, 2 * 64 * 16])
    assert (kernels["%one"].times, kernels["%put"].times) == (7, 7)
    row, number = 16, 4
    assert kernels["%one"].bytes == 2 * row + number
    assert kernels["%put"].bytes == 2 * row + number
    assert len(kernels) == 5


def test_a_loop_of_unknown_length_is_refused():
    text = GPU.replace('{"known_trip_count":{"n":"7"}}', "{}")
    with pytest.raises(ValueError, match="loop of unknown length"):
        parse(text).kernels()
