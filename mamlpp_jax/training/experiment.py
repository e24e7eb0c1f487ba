"""From a configuration and a data set to the parts that training and evaluation run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.outer_loop import fixed_tasks
from mamlpp_jax.config.parts import OUTER_DIRECTIONS
from mamlpp_jax.data.batches import make_sample_batches
from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.episodes import (
    NORMALIZATIONS,
    TaskSource,
    TaskSpec,
    class_rows,
    make_sample_tasks,
)
from mamlpp_jax.data.pipeline import TaskStream, make_task_stream
from mamlpp_jax.data.sampled_episodes import (
    EpisodeSource,
    SampledStream,
    Sampler,
    check_episodes,
    in_every_step,
)
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.distributed.mesh import make_mesh, replicate, replicated
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.learner import (
    example_images,
    init_run_state,
    make_learner,
    make_optimizer,
    outer_learning_rate,
    state_shapes,
    stream_key,
)
from mamlpp_jax.training.start_from import Start, carry_over
from mamlpp_jax.types import Array, Episode, MetaState

_ROTATIONS = 4
_NOTHING: Mapping[str, Sequence[str]] = MappingProxyType({})
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run."""

    config: ConfigDict  # the validated configuration
    mesh: Mesh  # the devices
    learner: Learner  # backbone and inner loop
    optimizer: optax.GradientTransformation  # outer Adam, behind clipping where that is on
    learning_rate: optax.Schedule  # rate of the outer Adam per outer step
    example_inputs: Any  # of the backbone, leaves [N, ...], as arrays or shapes
    tasks: Mapping[str, TaskStream | SampledStream]  # of "train", "val" and "test"
    start: Start | None = None  # trained weights to start from

    @property
    def tasks_per_chunk(self) -> int:
        """Tasks computed together on one device."""
        per_device = self.config.train.tasks_per_step // self.mesh.size
        chunk = self.config.compute.tasks_per_chunk
        return chunk or (1 if jax.default_backend() == "cpu" else per_device)

    @property
    def class_names(self) -> dict[str, list[str]]:
        """Names of each split's classes, before rotation."""
        return {split: list(stream.class_names) for split, stream in self.tasks.items()}

    def init_run_state(self) -> MetaState:
        """The state before the first outer step, on the devices; logs what was taken from `start`."""
        # Compiled as one function: its operations one by one take four times as long to compile.
        make = jax.jit(lambda: init_run_state(self.config, self.example_inputs))
        state = make()
        if self.start is not None:
            meta, stats, lines = carry_over(self.config, state.meta, state.batch_stats, self.start)
            learned = "; ".join(line for line in lines if not line.endswith(": nothing"))
            logging.info("starting from %s: %s", self.config.train.start_from, learned)
            state = MetaState(state.step, meta, stats, self.optimizer.init(meta))
        return replicate(state, self.mesh)

    def state_shapes(self) -> MetaState:
        """Shapes, dtypes and shardings of the states, to restore checkpoints as."""
        return state_shapes(self.config, self.example_inputs, replicated(self.mesh))


def task_spec(config: ConfigDict, split: str = "train") -> TaskSpec:
    """The tasks a configuration asks for in a split."""
    rotated = config.data.rotations and (split == "train" or config.data.rotate_evaluation)
    rotations = _ROTATIONS if rotated else 1
    mean, std = NORMALIZATIONS[config.data.normalize]
    return TaskSpec(config.task.way, config.task.shot, config.task.query, rotations, mean, std)


def choose_classes(
    config: ConfigDict, dataset: Dataset, recorded: Mapping[str, Sequence[str]] = _NOTHING
) -> dict[str, np.ndarray]:
    """Class indices of each split; `recorded` has the names of those chosen before."""
    rotations = {split: task_spec(config, split).rotations for split in SPLITS}
    return split_dataset(dataset, config.data, config.task.way, rotations, recorded)


def check_tasks(config: ConfigDict, dataset: Dataset, classes: Mapping[str, np.ndarray]) -> None:
    """Checks that splits, given by their class indices, have enough classes and images for the tasks asked for."""
    config_lib.check_channels(config, dataset.images.shape[-1])
    for split, members in classes.items():
        num_classes = len(members) * task_spec(config, split).rotations
        config_lib.check_classes(config, split, num_classes, dataset.num_classes)
    members = np.sort(np.concatenate([*classes.values()]))
    sizes = {dataset.class_names[index]: int(dataset.class_sizes[index]) for index in members}
    config_lib.check_class_sizes(config, sizes)


def build_experiment(
    config: ConfigDict,
    data: Dataset | EpisodeSource | Episode,
    splits: Sequence[str] = SPLITS,
    recorded: Mapping[str, Sequence[str]] = _NOTHING,
) -> Experiment:
    """Builds everything but compiles nothing.

    Args:
        config: the validated configuration.
        data: a data set, a user's own samplers, or the tasks of one split themselves, leaves [T, ...].
        splits: those that tasks will be sampled from.
        recorded: names of the classes of each split that were chosen before.

    Data that do not give the tasks asked for, and lacking devices, are a `ConfigError`.
    """
    mesh = make_mesh(config.train.tasks_per_step, config.compute.devices)
    config_lib.check_chunk(config, mesh.size)
    learner = make_learner(config)
    tasks: Mapping[str, TaskStream | SampledStream]
    if isinstance(data, Dataset):
        everything = choose_classes(config, data, recorded)
        classes = {split: everything[split] for split in splits}
        check_tasks(config, data, classes)
        tasks, inputs = (
            _make_streams(config, data, classes, mesh),
            example_images(data.images.shape[1:]),
        )
    elif isinstance(data, EpisodeSource):
        tasks, inputs = _sampled_streams(config, data, splits, mesh), data.example_inputs
    else:
        tasks, inputs = _ready_stream(config, data, splits, mesh)
    return Experiment(
        config=config,
        mesh=mesh,
        learner=learner,
        optimizer=make_optimizer(config),
        learning_rate=outer_learning_rate(config),
        example_inputs=inputs,
        tasks=tasks,
    )


def _stream_keys(config: ConfigDict) -> dict[str, Any]:
    seeds = {"train": config.seed, "val": config.data.seed, "test": config.data.seed}
    return {split: stream_key(seed, split) for split, seed in seeds.items()}


def _make_streams(
    config: ConfigDict, dataset: Dataset, classes: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, TaskStream | SampledStream]:
    """A stream per split; data within the limit are put on every device."""
    keys = _stream_keys(config)
    fits = dataset.images.nbytes <= config.data.device_limit_mib * _MIB
    images = replicate(dataset.images, mesh) if fits else None
    streams: dict[str, TaskStream | SampledStream] = {
        split: make_task_stream(
            dataset, members, keys[split], task_spec(config, split), mesh, images
        )
        for split, members in classes.items()
    }
    if OUTER_DIRECTIONS[config.train.outer_gradient].all_classes and "train" in streams:
        streams["train"] = _batch_stream(config, dataset, classes["train"], mesh, images)
    return streams


def _batch_stream(
    config: ConfigDict, dataset: Dataset, classes: np.ndarray, mesh: Mesh, images: Array | None
) -> SampledStream:
    """The stream of batches of a supervised stage."""
    if images is None:
        raise ConfigError(
            f"config.data.device_limit_mib is {config.data.device_limit_mib}, but a supervised stage needs its "
            f"{dataset.images.nbytes // _MIB + 1} MiB of images on the device; raise it."
        )
    key, spec = _stream_keys(config)["train"], task_spec(config)
    starts, sizes = class_rows(dataset, classes)
    return SampledStream(
        make_sample_batches(spec, config.train.images_per_task, config.data.augment),
        TaskSource(images, *replicate((starts, sizes, key), mesh)),
        mesh,
        dataset.name,
        tuple(dataset.class_names[index] for index in classes),
        len(classes) * spec.rotations,
    )


def _sampled_streams(
    config: ConfigDict, source: EpisodeSource, splits: Sequence[str], mesh: Mesh
) -> dict[str, SampledStream]:
    """A stream per split; the first tasks of each are checked."""
    samplers = {"train": source.train, "val": source.validation, "test": source.test}
    keys, streams = _stream_keys(config), {}
    for split in splits:
        stream = SampledStream(in_every_step(samplers[split]), keys[split], mesh, config.data.name)
        sampled = check_episodes(stream, source.example_inputs)
        for targets in (sampled.support.targets, sampled.query.targets):
            _check_labels(config, targets)
        streams[split] = stream
    return streams


def _ready_stream(
    config: ConfigDict, episodes: Episode, splits: Sequence[str], mesh: Mesh
) -> tuple[dict[str, SampledStream], Any]:
    """A stream of ready tasks, and inputs like theirs."""
    for targets in (episodes.support.targets, episodes.query.targets):
        _check_labels(config, jax.tree.map(np.asarray, targets))
    on_device = replicate(jax.tree.map(jnp.asarray, episodes), mesh)
    (split,) = splits
    stream = SampledStream(fixed_tasks, on_device, mesh, config.data.name)
    inputs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), on_device.support.inputs
    )
    return {split: stream}, inputs


def make_sampler(config: ConfigDict, dataset: Dataset, split: str = "train") -> Sampler:
    """Makes the function that samples a configuration's tasks from a data set.

    Args:
        config: the whole configuration: how classes are split, and way, shot and query.
        dataset: from `load_dataset(config)`.
        split: "train", "val" or "test".

    Returns:
        ``(random key, task indices int32 [B]) -> Episode``, leaves [B, ...], to be called inside jit or outside. A task
        depends on the key and its own index alone.

    Raises:
        ConfigError: the data do not give the tasks asked for.

    Example:
        >>> sample = maml.make_sampler(of_images, maml.load_dataset(of_images))
        >>> sample(jax.random.key(0), jnp.arange(8)).query.inputs.shape
        (8, 2, 16, 16, 1)
    """
    classes = choose_classes(config, dataset)
    check_tasks(config, dataset, {split: classes[split]})
    images = jnp.asarray(dataset.images)
    starts, sizes = map(jnp.asarray, class_rows(dataset, classes[split]))
    sample = make_sample_tasks(task_spec(config, split), int(dataset.class_sizes.max()))

    def sampler(key: Array, indices: Array) -> Episode:
        source = TaskSource(images, starts, sizes, key)
        return sample(source, jnp.int32(0), indices)

    return sampler


def _check_labels(config: ConfigDict, labels: Any) -> None:
    way = config.task.way
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            f"config.data.name is {config.data.name!r}, whose targets are no array of integers; a configured run "
            "classifies, so they must be labels."
        )
    if labels.min() < 0 or labels.max() >= way:
        raise ConfigError(
            f"config.data.name is {config.data.name!r}, whose labels are from {labels.min()} to {labels.max()}, but "
            f"config.task.way is {way}; they must be 0..{way - 1}, or config.task.way={labels.max() + 1}."
        )
