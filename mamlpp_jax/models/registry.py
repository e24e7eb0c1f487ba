"""The backbones that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from mamlpp_jax.models.conv4 import Conv4
from mamlpp_jax.models.resnet12 import ResNet12

# name -> (ways, **options) -> module
BACKBONES: dict[str, Callable[..., nn.Module]] = {"conv4": Conv4, "resnet12": ResNet12}


def make_backbone(name: str, ways: int, **options: Any) -> nn.Module:
    """The backbone of a configuration.

    Args:
        name: one of `BACKBONES`.
        ways: K, outputs.
        **options: attributes of the module, such as `filters`.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name](ways=ways, **options)
