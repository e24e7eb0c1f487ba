"""The devices that tasks are sharded over."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mamlpp_jax.errors import ConfigError

AXIS = "tasks"


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit` (at least 1)."""
    return max(d for d in range(1, max(limit, 1) + 1) if number % d == 0)


def make_mesh(tasks_per_step: int, devices: int = 0) -> Mesh:
    """A one-axis mesh.

    Args:
        tasks_per_step: the meta-batch, which must divide over the devices.
        devices: how many; 0 for as many of the available ones as divide the meta-batch.

    Raises:
        ConfigError: more devices were asked for than there are.
    """
    available = jax.devices()
    if devices > len(available):
        raise ConfigError(
            f"config.compute.devices is {devices}, but JAX sees {len(available)} "
            f"{available[0].platform} device(s); use at most {len(available)}, or 0 for automatic."
        )
    count = devices or largest_divisor(tasks_per_step, len(available))
    return Mesh(np.array(available[:count]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def varying(tree: Any) -> Any:
    """Marks replicated leaves as differing between devices, inside a `shard_map` over the mesh.

    A custom VJP of replicated weights fails shard_map's replication check; gradients of the marked ones
    are averaged explicitly.
    """
    return jax.tree.map(lambda leaf: lax.pcast(leaf, AXIS, to="varying"), tree)
