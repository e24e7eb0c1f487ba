"""From a configuration and a data set to the parts that training and evaluation run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms import schedules
from mamlpp_jax.algorithms.inner_optimizers import make_inner_optimizer
from mamlpp_jax.algorithms.outer_loop import Learner, init_state
from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.episodes import (
    NORMALIZATIONS,
    TaskShape,
    TaskSource,
    draw_indices,
    make_draw,
    make_source,
    task_key,
)
from mamlpp_jax.data.host_episodes import BATCH_BYTES, HostSource, make_host_source, prefetched
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.distributed.mesh import local_copy, make_mesh, replicate
from mamlpp_jax.models import Conv4, init_model, make_forward
from mamlpp_jax.types import Array, DrawTasks, Episode, MetaState

_ROTATIONS = 4
_MIB = 2**20
_STREAMS = {"init": 0, "train": 1, "val": 2, "test": 3}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run is made of.

    Attributes:
        config: the validated configuration.
        mesh: the devices.
        learner: backbone and inner loop.
        optimizer: outer Adam, behind clipping where that is on.
        learning_rate: its rate per outer step.
        image_shape: (H, W, C).
        sources: where the tasks of "train", "val" and "test" come from, on the devices or the host.
        class_names: of each split, before rotation.
        largest_class: pictures of the largest class.
        draw: draws tasks of the configuration's shape.
    """

    config: ConfigDict
    mesh: Mesh
    learner: Learner
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    image_shape: tuple[int, int, int]
    sources: dict[str, TaskSource | HostSource]
    class_names: dict[str, list[str]]
    largest_class: int
    draw: DrawTasks

    @property
    def tasks_per_chunk(self) -> int:
        """Tasks computed together on one device."""
        per_device = self.config.train.tasks_per_step // self.mesh.size
        chunk = self.config.compute.tasks_per_chunk
        return chunk or (1 if jax.default_backend() == "cpu" else per_device)

    def as_trained(self, config: ConfigDict) -> Program:
        """The program whose states this one tests: a run's own model, on the data and devices here."""
        return dataclasses.replace(self, config=config, learner=make_learner(config))

    def init_state(self) -> MetaState:
        """The state before the first outer step, on the devices."""
        return replicate(self.initial_values(), self.mesh)

    def initial_values(self) -> MetaState:
        """The same, not yet placed; may be traced."""
        variables = init_model(
            _module(self.config), stream_key(self.config.seed, "init"), self.image_shape
        )
        return init_state(
            variables,
            self.learner,
            self.optimizer,
            per_step_affine=self.config.norm.per_step_affine,
            per_step_statistics=self.config.norm.per_step_statistics,
        )

    @property
    def on_host(self) -> bool:
        """Whether the data are too large for the devices."""
        return any(isinstance(source, HostSource) for source in self.sources.values())

    @property
    def most_steps_ready(self) -> int | None:
        """How many outer steps' training tasks may be sent to the devices at a time; None: any."""
        source = self.sources["train"]
        if not isinstance(source, HostSource):
            return None
        step_bytes = self.config.train.tasks_per_step * source.task_bytes
        return max(1, BATCH_BYTES // step_bytes)

    def ready(self, split: str, steps: range, tasks: range) -> Any:
        """A source that `draw` can take these tasks of a split from, on the devices."""
        source = self.sources[split]
        if isinstance(source, HostSource):
            return replicate(source.batch(steps, tasks), self.mesh)
        return source

    def feed(self, start: int, steps: int) -> Generator[Any, None, None]:
        """For each dispatch of so many outer steps, from `start` to the end, a source of its training tasks.

        Host data are prepared ahead in a thread; close the iterator to end it.
        """
        tasks = range(self.config.train.tasks_per_step)
        firsts = range(start, config_lib.total_steps(self.config), steps)
        if not self.on_host:
            yield from itertools.repeat(self.sources["train"], len(firsts))
            return
        yield from prefetched(
            lambda first: self.ready("train", range(first, first + steps), tasks), firsts
        )

    def episodes(self, split: str, count: int) -> Episode:
        """The first tasks of a split's stream as NumPy arrays with a leading [count]."""
        source = self._local_source(split)
        if isinstance(source, HostSource):
            source = jax.tree.map(jnp.asarray, source.batch(range(1), range(count)))
        drawn = self.draw(source, jnp.int32(0), jnp.arange(count, dtype=jnp.int32))
        return jax.tree.map(np.asarray, drawn)

    def _local_source(self, split: str) -> Any:
        """A source that one process can read alone."""
        source = self.sources[split]
        return source if isinstance(source, HostSource) else local_copy(source)

    def drawn_classes(self, split: str, task: int) -> list[str]:
        """Names of the classes of one of these tasks, with the quarter turns they were drawn at."""
        source = self._local_source(split)
        key = task_key(source.key, jnp.int32(0), jnp.int32(task))
        pictures, turns = draw_indices(
            key,
            jnp.asarray(source.starts),
            jnp.asarray(source.sizes),
            task_shape(self.config),
            self.largest_class,
        )
        starts, ends = np.asarray(source.starts), np.asarray(source.starts + source.sizes)
        names = []
        for picture, turn in zip(np.asarray(pictures[:, 0]), np.asarray(turns), strict=True):
            position = int(np.argmax((starts <= picture) & (picture < ends)))
            name = self.class_names[split][position]
            names.append(f"{name}, turned {90 * turn}°" if turn else name)
        return names


def stream_key(seed: int, stream: str) -> Array:
    """The random key of one use of a seed; the generator is fixed so that runs repeat everywhere."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _STREAMS[stream])


def task_shape(config: ConfigDict) -> TaskShape:
    """The kind of task a configuration asks for."""
    rotations = _ROTATIONS if config.data.rotations else 1
    mean, std = NORMALIZATIONS[config.data.normalize]
    return TaskShape(config.task.way, config.task.shot, config.task.query, rotations, mean, std)


def choose_classes(
    config: ConfigDict, dataset: Dataset, splits: Sequence[str] = SPLITS
) -> dict[str, np.ndarray]:
    """Splits the classes and checks that the splits can give the tasks asked for.

    Returns:
        Class indices of each of `splits`.

    Raises:
        ConfigError: too few classes or images.
    """
    everything = split_dataset(dataset, config.data)
    classes = {split: everything[split] for split in splits}
    config_lib.check_channels(config, dataset.images.shape[-1])
    rotations = task_shape(config).rotations
    for split, members in classes.items():
        smallest = int(dataset.class_sizes[members].min())
        config_lib.check_classes(config, split, len(members) * rotations, smallest)
    return classes


def build(config: ConfigDict, dataset: Dataset, splits: Sequence[str] = SPLITS) -> Program:
    """Builds everything but compiles nothing.

    Args:
        config: validated.
        dataset: the data it asks for.
        splits: those that tasks will be drawn from.

    Raises:
        ConfigError: the data do not give the tasks asked for, or devices are lacking.
    """
    classes = choose_classes(config, dataset, splits)
    mesh = make_mesh(config.train.tasks_per_step, config.compute.devices)
    config_lib.check_chunk(config, mesh.size)
    sources = _make_sources(config, dataset, classes, mesh)
    train = config.train
    rate = schedules.outer_learning_rate(
        train.learning_rate,
        train.final_learning_rate,
        config_lib.total_steps(config),
        train.cosine_annealing,
    )
    largest = int(dataset.class_sizes.max())
    return Program(
        config=config,
        mesh=mesh,
        learner=make_learner(config),
        optimizer=_outer_optimizer(config, rate),
        learning_rate=rate,
        image_shape=dataset.images.shape[1:],
        sources=sources,
        class_names={s: [dataset.class_names[i] for i in classes[s]] for s in splits},
        largest_class=largest,
        draw=make_draw(task_shape(config), largest),
    )


def _outer_optimizer(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    train = config.train
    parts = []
    if train.clip_value:
        parts.append(optax.clip(train.clip_value))
    if train.clip_norm:
        parts.append(optax.clip_by_global_norm(train.clip_norm))
    adam = optax.adam(rate, b1=train.adam_b1, b2=train.adam_b2)
    return optax.chain(*parts, adam) if parts else adam


def _make_sources(
    config: ConfigDict, dataset: Dataset, classes: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, TaskSource | HostSource]:
    """A source per split; data within the limit are put on every device."""
    seeds = {"train": config.seed, "val": config.data.seed, "test": config.data.seed}
    keys = {split: stream_key(seeds[split], split) for split in classes}
    if dataset.images.nbytes > config.data.device_limit_mib * _MIB:
        shape = task_shape(config)
        return {
            split: make_host_source(dataset, classes[split], key, shape)
            for split, key in keys.items()
        }
    images = replicate(dataset.images, mesh)
    return {
        split: replicate(make_source(dataset, classes[split], images, key), mesh)
        for split, key in keys.items()
    }


def make_learner(config: ConfigDict) -> Learner:
    """The backbone and inner loop of a configuration."""
    return Learner(
        forward=make_forward(_module(config)),
        inner_optimizer=make_inner_optimizer(config.inner.optimizer, config.inner.learning_rate),
        inner_steps=config.train.inner_steps,
        train_statistics=config.norm.train_statistics,
        remat=config.compute.remat,
    )


def _module(config: ConfigDict) -> Conv4:
    model = config.model
    operands = "" if model.dtype == "float32" else model.dtype
    return Conv4(config.task.way, model.filters, model.max_pool, model.conv, operands)
