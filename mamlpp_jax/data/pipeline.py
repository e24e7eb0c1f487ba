"""The stream of tasks of one split, whether its images lie on the devices or on the host."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.episodes import TaskSource, TaskSpec, class_rows, make_sample_tasks
from mamlpp_jax.data.host_episodes import HostSource, prefetched
from mamlpp_jax.distributed.mesh import replicate
from mamlpp_jax.types import Array, Episode, SampleTasks
from mamlpp_jax.utils.arithmetic import largest_divisor

_BATCH_BYTES = 128 * 2**20  # of images that are sent to the devices at a time

_SLICES, _MOST_SLICES = 10, 30  # of an evaluation, about and at most


class Window(NamedTuple):
    """Tasks that are needed together: those with these global indices, in each of these outer steps."""

    steps: range
    tasks: range


@dataclasses.dataclass(frozen=True, eq=False)
class TaskStream:
    """Samples tasks of one split; the same ones wherever its images lie."""

    host: HostSource  # source of the tasks, on the host
    class_names: tuple[str, ...]  # names of the split's classes, before rotation
    sample_tasks: SampleTasks  # to be called inside jit with a source from `windows` or `slices`
    mesh: Mesh  # the devices
    device_images: Array | None  # uint8 [T, H, W, C], replicated; None where they stay on the host
    batch_bytes: int = _BATCH_BYTES  # of images sent at a time where they stay on the host

    @property
    def num_classes(self) -> int:
        """Classes that tasks are sampled from; each rotation counts."""
        return len(self.class_names) * self.host.spec.rotations

    @property
    def on_host(self) -> bool:
        """True where the images stay on the host."""
        return self.device_images is None

    @property
    def tasks_per_window(self) -> int | None:
        """Number of tasks that a window should have at most; None for any number."""
        if self.device_images is not None:
            return None
        return max(1, self.batch_bytes // self.host.task_bytes)

    def windows(self, windows: Sequence[Window]) -> Generator[Any, None, None]:
        """Yields for each window a source, on the devices, that `sample_tasks` can take its tasks from.

        Images on the host are prepared a few windows ahead, in a thread; close the iterator to end it.
        """
        if self.device_images is not None:
            _, *classes_and_key = self.host.source
            source = TaskSource(self.device_images, *replicate(classes_and_key, self.mesh))
            yield from itertools.repeat(source, len(windows))
        else:
            yield from prefetched(
                lambda window: replicate(self.host.batch(*window), self.mesh), windows
            )

    def window(self, steps: range, tasks: range) -> Any:
        """The source of one window."""
        (source,) = self.windows([Window(steps, tasks)])
        return source

    def slices(
        self, task_indices: np.ndarray, devices: int
    ) -> Generator[tuple[Any, np.ndarray], None, None]:
        """See `algorithms.evaluation.TaskSlices`.

        There are some, to report progress after each; more where the host assembles tasks, since it does so in
        slices of a limited size. All have the same shape, so that one compiled function serves them.
        """
        limit, (chunks, per_chunk) = self.tasks_per_window, task_indices.shape
        share = chunks // devices
        rows = largest_divisor(share, -(-share // _SLICES))
        if share > _MOST_SLICES * rows:
            rows = share
        if limit is not None:
            rows = largest_divisor(share, min(rows, limit // (devices * per_chunk)))
        rows *= devices
        slices = np.split(task_indices, chunks // rows)
        first = [Window(range(1), range(part[0, 0], part[-1, -1] + 1)) for part in slices]
        sources = self.windows(first)
        try:
            yield from zip(sources, slices, strict=True)
        finally:
            sources.close()

    def episodes(self, count: int) -> Episode:
        """The first tasks of step 0 as NumPy arrays with a leading [count]; one process may ask alone."""
        batch = jax.tree.map(jnp.asarray, self.host.batch(range(1), range(count)))
        sampled = self.sample_tasks(batch, jnp.int32(0), jnp.arange(count, dtype=jnp.int32))
        return jax.tree.map(np.asarray, sampled)

    def classes(self, tasks: range) -> tuple[np.ndarray, np.ndarray]:
        """Classes of these tasks, int [tasks, K], indices into `class_names`, and their quarters of rotation."""
        indices, rotations = self.host.indices(range(1), tasks)
        starts = np.asarray(self.host.source.starts)
        order = np.argsort(starts)
        row = np.searchsorted(starts[order], indices[0, :, :, 0], side="right") - 1
        return order[row], rotations[0]

    def task_class_names(self, task: int) -> list[str]:
        """Names of the classes of one of these tasks, with the rotations they were sampled at."""
        (classes,), (rotations,) = self.classes(range(task, task + 1))
        return [
            f"{self.class_names[index]}, rotated {90 * quarters}°"
            if quarters
            else self.class_names[index]
            for index, quarters in zip(classes, rotations, strict=True)
        ]


def make_task_stream(
    dataset: Dataset,
    classes: np.ndarray,
    key: Array,
    spec: TaskSpec,
    mesh: Mesh,
    device_images: Array | None,
) -> TaskStream:
    """The stream of the classes of one split, given by their indices, int [classes].

    `device_images` are `dataset.images` replicated over the mesh, which splits share; None to leave them on the host.
    """
    largest = int(dataset.class_sizes.max())
    on_host: Any = (dataset.images, *class_rows(dataset, classes), key)
    return TaskStream(
        HostSource(TaskSource(*on_host), spec, largest),
        tuple(dataset.class_names[index] for index in classes),
        make_sample_tasks(spec, largest),
        mesh,
        device_images,
    )
