"""Backbones, their layers, and the pure function made of one."""

from mamlpp_jax.models.conv4 import Conv4
from mamlpp_jax.models.forward import init_model, make_forward

__all__ = ["Conv4", "init_model", "make_forward"]
