"""Episodes of any kind from a user's own samplers, as the runner takes them: `--config.data.name=my_data:make`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mamlpp_jax.config.own_code import one_line
from mamlpp_jax.config.parts import OWN_DATA
from mamlpp_jax.data.pipeline import Window
from mamlpp_jax.distributed.mesh import replicate
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.types import Array, Episode, SampleTasks

# (random key, task indices int32 [B]) -> episodes, leaves [B, ...]. Each task depends on the key and its own index
# alone, as by `jax.random.fold_in(key, index)`. It is called inside jit.
Sampler = Callable[[Array, Array], Episode]


class EpisodeSource(NamedTuple):
    """Episodes to train, validate and test on; what the callable that `data.name` names returns.

    Attributes:
        train: samples training tasks; its key differs from outer step to outer step.
        validation: samples tasks of classes that `train` never has; the same ones in every epoch.
        test: samples tasks of classes that neither of the others has.
        example_inputs: inputs of a task, leaves [N, ...] for any N: arrays or `jax.ShapeDtypeStruct` instances.

    Example:
        >>> source = waves(way=3, shot=2)
        >>> source.train(jax.random.key(0), jnp.arange(8)).support.inputs.shape
        (8, 6, 16)
    """

    train: Sampler
    validation: Sampler
    test: Sampler
    example_inputs: Any


def own_episodes(values: Mapping[str, Any]) -> EpisodeSource:
    """Makes the source that `data.name` names.

    Args:
        values: of all fields, by full name.

    Raises:
        ConfigError: it cannot be imported or called, or returns something else.
    """
    name = values["data.name"]
    source = OWN_DATA[name].make(values)
    is_source = isinstance(source, tuple) and len(source) == len(EpisodeSource._fields)
    if not is_source or not all(map(callable, source[:-1])):
        raise ConfigError(
            f"config.data.name is {name!r}, which returns {_described(source)}; it must return an EpisodeSource: the "
            "samplers train, validation and test, each (key, indices) -> Episode, and example_inputs."
        )
    return EpisodeSource(*source)


def _described(source: Any) -> str:
    return f"a {type(source).__name__}" + (
        f" of {len(source)}" if isinstance(source, tuple) else ""
    )


def own_data_hash(values: Mapping[str, Any]) -> str:
    """Stands for the fingerprint of a data set; `own_code.source_hashes` notices changes of the code."""
    return hashlib.sha256(f"{values['data.name']} {values['data.options']}".encode()).hexdigest()


def in_every_step(sampler: Sampler) -> SampleTasks:
    """Samples other tasks in every outer step; the source is the random key of the stream."""
    return lambda key, step, indices: sampler(jax.random.fold_in(key, step), indices)


@dataclasses.dataclass(frozen=True, eq=False)
class SampledStream:
    """Tasks of one split from a sampler, with what the runner asks of a `pipeline.TaskStream`.

    Attributes:
        sample_tasks: ``(source, step, task_indices [B]) -> Episode``, leaves [B, ...].
        source: what it samples from: the random key of the stream, or ready tasks.
        mesh: the devices.
        name: `data.name`, for errors.
    """

    sample_tasks: SampleTasks
    source: Any
    mesh: Mesh
    name: str
    class_names: tuple[str, ...] = ()
    num_classes: int = 0
    tasks_per_window: int | None = None
    on_host: bool = False

    def windows(self, windows: Sequence[Window]) -> Generator[Any, None, None]:
        """Yields the source of each window, on the devices."""
        yield from itertools.repeat(replicate(self.source, self.mesh), len(windows))

    def window(self, steps: range, tasks: range) -> Any:
        """The source of one window."""
        return replicate(self.source, self.mesh)

    def slices(
        self, task_indices: np.ndarray, devices: int
    ) -> Generator[tuple[Any, np.ndarray], None, None]:
        """See `algorithms.evaluation.TaskSlices`."""
        yield replicate(self.source, self.mesh), task_indices

    def episodes(self, count: int) -> Episode:
        """The first tasks of step 0 as NumPy arrays with a leading [count].

        Raises:
            ConfigError: the sampler raises, or returns no `Episode`.
        """
        indices = jnp.arange(count)
        try:
            sampled = self.sample_tasks(self.source, jnp.int32(0), indices)
        except Exception as error:
            raise ConfigError(
                f"config.data.name is {self.name!r}, whose sampler raises {type(error).__name__} for a key and the "
                f"indices {list(range(count))}: {one_line(error)}."
            ) from error
        if not isinstance(sampled, Episode):
            raise ConfigError(
                f"config.data.name is {self.name!r}, whose sampler returns {_described(sampled)}; it must return an "
                "Episode(support=Batch(inputs, targets), query=Batch(inputs, targets))."
            )
        return jax.tree.map(np.asarray, sampled)


def check_episodes(stream: SampledStream, example_inputs: Any) -> Episode:
    """Checks the first two tasks of a stream against the example inputs, before anything is compiled.

    Raises:
        ConfigError: the sampler raises, or its tasks have no leading axis or other inputs.
    """
    sampled = stream.episodes(2)
    for part in ("support", "query"):
        batch = getattr(sampled, part)
        try:
            same = jax.tree.map(
                lambda leaf, example: (
                    leaf.shape[0] == 2
                    and (leaf.shape[2:], leaf.dtype) == (example.shape[1:], example.dtype)
                ),
                *(batch.inputs, example_inputs),
            )
        except (ValueError, IndexError) as error:
            raise _unlike(stream.name, part, one_line(error)) from error
        if not all(jax.tree.leaves(same)):
            shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch.inputs)
            wanted = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", example_inputs)
            raise _unlike(stream.name, part, f"{shapes} of two tasks, examples {wanted}")
    return sampled


def _unlike(name: str, part: str, reason: str) -> ConfigError:
    return ConfigError(
        f"config.data.name is {name!r}, whose {part} inputs do not fit example_inputs ({reason}); a sampler returns "
        "leaves [tasks, examples, ...] where example_inputs has [examples, ...]."
    )
