"""Backbones, their layers, and the pure function made of one."""

from mamlpp_jax.models.conv4 import Conv4
from mamlpp_jax.models.forward import init_model, make_body_and_head, make_forward
from mamlpp_jax.models.head import with_ways
from mamlpp_jax.models.resnet12 import ResNet12

__all__ = ["Conv4", "ResNet12", "init_model", "make_body_and_head", "make_forward", "with_ways"]
