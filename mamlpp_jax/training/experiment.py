"""From a configuration and a data set to the parts that training and evaluation run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.episodes import NORMALIZATIONS, TaskSpec
from mamlpp_jax.data.pipeline import TaskStream, make_task_stream
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.distributed.mesh import make_mesh, replicate, replicated
from mamlpp_jax.training.learner import (
    init_run_state,
    make_learner,
    make_optimizer,
    outer_learning_rate,
    state_shapes,
    stream_key,
)
from mamlpp_jax.types import MetaState

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
    image_shape: tuple[int, int, int]  # (H, W, C)
    tasks: dict[str, TaskStream]  # the streams of "train", "val" and "test"

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
        """The state before the first outer step, on the devices."""
        # Compiled as one function: its operations one by one take four times as long to compile.
        make = jax.jit(lambda: init_run_state(self.config, self.image_shape))
        return replicate(make(), self.mesh)

    def state_shapes(self) -> MetaState:
        """Shapes, dtypes and shardings of the states, to restore checkpoints as."""
        return state_shapes(self.config, self.image_shape, replicated(self.mesh))


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
        smallest = min(members, key=dataset.class_sizes.__getitem__)
        smallest_class = dataset.class_names[smallest], int(dataset.class_sizes[smallest])
        rotations = task_spec(config, split).rotations
        config_lib.check_classes(config, split, len(members) * rotations, *smallest_class)


def build_experiment(
    config: ConfigDict,
    dataset: Dataset,
    splits: Sequence[str] = SPLITS,
    recorded: Mapping[str, Sequence[str]] = _NOTHING,
) -> Experiment:
    """Builds everything but compiles nothing; tasks will be sampled from `splits`.

    Data that do not give the tasks asked for, and lacking devices, are a `ConfigError`.
    """
    everything = choose_classes(config, dataset, recorded)
    classes = {split: everything[split] for split in splits}
    check_tasks(config, dataset, classes)
    mesh = make_mesh(config.train.tasks_per_step, config.compute.devices)
    config_lib.check_chunk(config, mesh.size)
    return Experiment(
        config=config,
        mesh=mesh,
        learner=make_learner(config),
        optimizer=make_optimizer(config),
        learning_rate=outer_learning_rate(config),
        image_shape=dataset.images.shape[1:],
        tasks=_make_streams(config, dataset, classes, mesh),
    )


def _make_streams(
    config: ConfigDict, dataset: Dataset, classes: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, TaskStream]:
    """A stream per split; data within the limit are put on every device."""
    seeds = {"train": config.seed, "val": config.data.seed, "test": config.data.seed}
    fits = dataset.images.nbytes <= config.data.device_limit_mib * _MIB
    images = replicate(dataset.images, mesh) if fits else None
    return {
        split: make_task_stream(
            dataset,
            members,
            stream_key(seeds[split], split),
            task_spec(config, split),
            mesh,
            images,
        )
        for split, members in classes.items()
    }
