"""Drawing the same episodes on the host, for data that do not fit the device.

The host draws which pictures make up a task exactly as the device does, and sends those pictures alone, as uint8;
turning and normalising stay inside jit. So the device sees the same bits whichever side the data are on.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.episodes import TaskShape, class_rows, draw_indices, task_key
from mamlpp_jax.types import Array

_T = TypeVar("_T")
_T2 = TypeVar("_T2")
BATCH_BYTES = 128 * 2**20  # of pictures that are sent to the device at a time
_AHEAD = 2  # batches that are made while the device works on one


class HostBatch(NamedTuple):
    """The pictures of ready tasks, a pytree to be sent to the device: a source of just these tasks.

    Attributes:
        first_step: int32 [], the outer step of row 0.
        first_task: int32 [], the global task index of column 0.
        images: uint8 [steps, tasks, K, shot + query, H, W, C].
        turns: int32 [steps, tasks, K], quarter turns.
    """

    first_step: Array
    first_task: Array
    images: Array
    turns: Array

    def pictures(
        self, step: Array, index: Array, shape: TaskShape, largest: int
    ) -> tuple[Array, Array]:
        """See `episodes.TaskSource.pictures`."""
        del shape, largest
        at = (step - self.first_step, index - self.first_task)
        return self.images[at], self.turns[at]


@dataclasses.dataclass(frozen=True, eq=False)
class HostSource:
    """What episodes are drawn from, on the host.

    Attributes:
        images: uint8 [T, H, W, C], every picture of the data set, of all splits.
        starts: int32 [classes], first picture of each class of this split.
        sizes: int32 [classes], pictures of each class of this split.
        key: the random key of this stream of tasks.
        shape: the kind of task.
        largest: pictures of the largest class.
    """

    images: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    key: Array
    shape: TaskShape
    largest: int

    def batch(self, steps: range, tasks: range) -> HostBatch:
        """The tasks with these global indices of each of these outer steps."""
        with jax.default_device(_host_device()):
            rows, turns = _draw_rows(
                self.key,
                self.starts,
                self.sizes,
                np.asarray(steps, np.int32),
                np.asarray(tasks, np.int32),
                shape=self.shape,
                largest=self.largest,
            )
        return HostBatch(
            np.int32(steps.start),  # type: ignore[arg-type]
            np.int32(tasks.start),  # type: ignore[arg-type]
            self.images[np.asarray(rows)],
            np.asarray(turns),  # type: ignore[arg-type]
        )

    @property
    def task_bytes(self) -> int:
        """Bytes of one task's pictures."""
        pictures = self.shape.way * (self.shape.shot + self.shape.query)
        return pictures * int(np.prod(self.images.shape[1:]))


def make_host_source(
    dataset: Dataset, classes: np.ndarray, key: Array, shape: TaskShape
) -> HostSource:
    """The source of one split; see `episodes.make_source`."""
    starts, sizes = class_rows(dataset, classes)
    on_host = jax.device_put(key, _host_device())
    return HostSource(dataset.images, starts, sizes, on_host, shape, int(dataset.class_sizes.max()))


@partial(jax.jit, static_argnames=("shape", "largest"))
def _draw_rows(
    key: Array,
    starts: Array,
    sizes: Array,
    steps: Array,
    tasks: Array,
    *,
    shape: TaskShape,
    largest: int,
) -> tuple[Array, Array]:
    """`draw_indices` of every step and task, with leading axes [steps, tasks]."""

    def one(step: Array, task: Array) -> tuple[Array, Array]:
        return draw_indices(task_key(key, step, task), starts, sizes, shape, largest)

    return jax.vmap(lambda step: jax.vmap(partial(one, step))(tasks))(steps)


def _host_device() -> jax.Device:
    """A CPU device: an accelerator would draw only after the work it has queued."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return jax.local_devices()[0]


def prefetched(make: Callable[[_T], _T2], arguments: Iterable[_T]) -> Generator[_T2, None, None]:
    """Calls `make` with each argument, a few ahead of what is consumed, in a thread of its own.

    Close the iterator when it is left early (`contextlib.closing`); the thread then ends.

    Raises:
        Exception: what `make` raises, when its turn comes.
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
