"""The devices that tasks are sharded over."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mamlpp_jax.errors import ConfigError
from mamlpp_jax.utils.arithmetic import largest_divisor

AXIS = "tasks"


def cpu_devices(tasks_per_step: int, devices: int, processes: int, cores: int) -> int:
    """The number of devices each process splits its CPU into; means nothing to an accelerator.

    `devices` counts those of all processes together; 0 for as many as this process may use cores and divide the tasks.
    """
    _check_processes(tasks_per_step, devices, processes)
    return devices // processes or largest_divisor(tasks_per_step // processes, cores)


def _check_processes(tasks_per_step: int, devices: int, processes: int) -> None:
    if tasks_per_step % processes:
        raise ConfigError(
            f"config.train.tasks_per_step is {tasks_per_step}, which does not divide over {processes} "
            f"processes; use as many processes as divide {tasks_per_step}."
        )
    if devices % processes:
        raise ConfigError(
            f"config.compute.devices is {devices}, which does not divide over {processes} processes; "
            f"it counts the devices of all of them: use a multiple of {processes}, or 0 for automatic."
        )


def available_devices() -> list[jax.Device]:
    """The devices of all processes; JAX starts its back end for it."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # asserts that a known platform has a plugin
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error).partition(' (set JAX')[0]})" if str(error) else ""
        raise ConfigError(
            f"JAX_PLATFORMS is {wanted!r}, but JAX finds no such device here{reason}. Unset it, or set it to cpu; "
            "a GPU or TPU needs JAX built for it (pip install '.[gpu]' or '.[tpu]')."
        ) from error


def make_mesh(tasks_per_step: int, devices: int = 0) -> Mesh:
    """A one-axis mesh, with equally many devices of every process, those of one process together.

    They share the meta-batch; `devices` is 0 for as many of the available ones as divide it.

    Example:
        >>> maml.make_mesh(tasks_per_step=8, devices=1).size
        1
    """
    available = available_devices()
    if devices > len(available):
        raise ConfigError(
            f"config.compute.devices is {devices}, but JAX sees {len(available)} "
            f"{available[0].platform} device(s); use at most {len(available)}, or 0 for automatic."
        )
    by_process: dict[int, list[jax.Device]] = {}
    for device in available:
        by_process.setdefault(device.process_index, []).append(device)
    processes, smallest = len(by_process), min(map(len, by_process.values()))
    _check_processes(tasks_per_step, devices, processes)
    share = devices // processes or largest_divisor(tasks_per_step // processes, smallest)
    if share > smallest:
        raise ConfigError(
            f"config.compute.devices is {devices}, {share} of each of {processes} processes, but one "
            f"has {smallest}; use at most {smallest * processes}, or 0 for automatic."
        )
    chosen = [device for index in sorted(by_process) for device in by_process[index][:share]]
    return Mesh(np.array(chosen), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device of the mesh; with several processes each must have the same one."""
    return _place(tree, replicated(mesh))


def shard_tasks(tree: Any, mesh: Mesh) -> Any:
    """Shards the leading axis of every leaf over the mesh; every process has the whole pytree."""
    return _place(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def _place(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(partial(_place_on_many_hosts, sharding=sharding), tree)


def _place_on_many_hosts(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Every process fills its own devices; `device_put` would send the leaf around to compare it."""
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place_on_many_hosts(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def gather_to_host(tree: Any) -> Any:
    """The values of a pytree as NumPy arrays; all processes must call it.

    Task-sharded leaves have the shares of all processes.
    """

    def gather(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


def mark_varying(tree: Any) -> Any:
    """Marks replicated leaves as differing between devices, inside a `shard_map` over the mesh.

    A custom VJP of replicated weights fails shard_map's replication check; gradients of the marked ones
    are averaged explicitly.
    """
    return jax.tree.map(lambda leaf: lax.pcast(leaf, AXIS, to="varying"), tree)
