"""Sampling the same episodes on the host, for data that do not fit the device.

The host samples which images make up a task exactly as the device does, and sends those images alone, as uint8;
rotating and normalising stay inside jit. So the device sees the same bits whichever side the data are on.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mamlpp_jax.data.episodes import TaskSource, TaskSpec, sample_indices, task_key
from mamlpp_jax.types import Array

_T = TypeVar("_T")
_T2 = TypeVar("_T2")
_AHEAD = 2  # batches that are made while the device works on one


class HostBatch(NamedTuple):
    """The images of ready tasks, a pytree to be sent to the device: a source of just these tasks."""

    first_step: Array  # int32 [], the outer step of the first entry
    first_task: Array  # int32 [], the global task index of the first entry
    images: Array  # uint8 [steps, tasks, K, shot + query, H, W, C]
    rotations: Array  # int32 [steps, tasks, K], in quarters of a full rotation

    def task_images(
        self, step: Array, index: Array, spec: TaskSpec, max_class_size: int
    ) -> tuple[Array, Array]:
        """See `episodes.TaskSource.task_images`."""
        del spec, max_class_size
        at = (step - self.first_step, index - self.first_task)
        return self.images[at], self.rotations[at]


@dataclasses.dataclass(frozen=True, eq=False)
class HostSource:
    """The source of a split's tasks, on the host."""

    source: TaskSource  # of NumPy arrays
    spec: TaskSpec
    max_class_size: int  # images of the data set's largest class

    def indices(self, steps: range, tasks: range) -> tuple[np.ndarray, np.ndarray]:
        """Image indices [steps, tasks, K, shot + query] and rotations [steps, tasks, K] of these tasks."""
        # A CPU device: an accelerator would answer only after the work it has queued.
        with jax.default_device(_host_device()):
            indices, rotations = _sample_many(
                jax.device_put(self.source.key, _host_device()),
                (self.source.starts, self.source.sizes),
                np.asarray(steps, np.int32),
                np.asarray(tasks, np.int32),
                spec=self.spec,
                max_class_size=self.max_class_size,
            )
        return np.asarray(indices), np.asarray(rotations)

    def batch(self, steps: range, tasks: range) -> HostBatch:
        """The tasks with these global indices of each of these outer steps."""
        indices, rotations = self.indices(steps, tasks)
        first = np.int32(steps.start), np.int32(tasks.start)
        on_host: Any = (*first, self.source.images[indices], rotations)
        return HostBatch(*on_host)

    @property
    def task_bytes(self) -> int:
        """Bytes of one task's images."""
        images = self.spec.way * (self.spec.shot + self.spec.query)
        return images * int(np.prod(self.source.images.shape[1:]))


@partial(jax.jit, static_argnames=("spec", "max_class_size"))
def _sample_many(
    key: Array,
    classes: tuple[Array, Array],
    steps: Array,
    tasks: Array,
    *,
    spec: TaskSpec,
    max_class_size: int,
) -> tuple[Array, Array]:
    """`sample_indices` of every step and task, with leading axes [steps, tasks]."""

    def one(step: Array, task: Array) -> tuple[Array, Array]:
        return sample_indices(task_key(key, step, task), *classes, spec, max_class_size)

    return jax.vmap(lambda step: jax.vmap(partial(one, step))(tasks))(steps)


def _host_device() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return jax.local_devices()[0]


def prefetched(make: Callable[[_T], _T2], arguments: Iterable[_T]) -> Generator[_T2, None, None]:
    """Calls `make` with each argument, a few ahead of the consumer, in a thread of its own.

    An error of `make` is raised when its turn comes. Close the iterator when it is left early
    (`contextlib.closing`); the thread then ends.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending: collections.deque[Future[_T2]] = collections.deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(make, argument))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
