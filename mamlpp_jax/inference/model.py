"""A trained few-shot model: what is needed to use it, and nothing of how training goes on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.config.own_code import is_own
from mamlpp_jax.config.parts import INNER_LOSSES
from mamlpp_jax.data.episodes import NORMALIZATIONS
from mamlpp_jax.data.sampled_episodes import own_episodes
from mamlpp_jax.data.sources.registry import is_inverted
from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.preprocessing import ImageFormat
from mamlpp_jax.statistics import SUPPORT, find_statistics
from mamlpp_jax.training.learner import example_images, make_learner
from mamlpp_jax.types import MetaParams, RunningStats

if TYPE_CHECKING:
    from mamlpp_jax.inference.trained_run import TrainedRun

_CHANGED = "## Changed since"
_NOTE = """\
What is above, its accuracies too, describes the model before it was saved again with: `{statistics}` statistics,
{inner_steps} inner steps, members of outer steps {steps}, polarity {polarity}."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FewShotModel:
    """A trained few-shot model of one or more members, whose logits are averaged."""

    config: FrozenConfigDict  # whole, as it was trained with, without folders of a machine
    image_format: ImageFormat  # its images
    meta: MetaParams  # NumPy leaves [E, ...] for E members, best first
    batch_stats: RunningStats  # running statistics, NumPy leaves [E, ...]
    steps: tuple[int, ...]  # outer steps that each member was trained for
    statistics: str  # the name of those that are used, see `mamlpp_jax.statistics`
    inner_steps: int  # how many are used
    temperature: float = 1.0  # what logits are divided by
    card: str = ""  # its model card, Markdown; "" for one made of the other attributes

    def __repr__(self) -> str:
        task = self.config.task
        return f"<{self.config.experiment}: {self.config.method}, {task.way}-way {task.shot}-shot>"

    def __deepcopy__(self, memo: Any) -> FewShotModel:
        return self  # nothing in it changes; clones of a classifier share its weights

    @property
    def takes_images(self) -> bool:
        """True where it was trained on images of a data set, and not on episodes of a user's own sampler."""
        return not is_own(self.config.data.name)

    @property
    def example_inputs(self) -> Any:
        """Inputs of the backbone, leaves [N, ...], as arrays or shapes."""
        if not self.takes_images:
            return own_episodes(dict(config_lib.flatten(self.config))).example_inputs
        return example_images(self.image_format.shape)

    @property
    def way(self) -> int:
        """Classes of the tasks it was trained on."""
        return int(self.config.task.way)

    def learner(self, way: int, conv: str = "auto") -> Learner:
        """The backbone and inner loop for tasks of `way` classes; the same object for equal models.

        `conv` is the implementation of convolutions, one of `ops.conv.IMPL_NAMES`.
        """
        if way > self.way and INNER_LOSSES[self.config.inner.loss].of_outputs:
            raise ModelError(
                f"there are {way} classes, but this model's inner loss ({self.config.inner.loss}) has learned of "
                f"{self.way} outputs; use at most {self.way}."
            )
        values = {**dict(config_lib.flatten(self.config)), "task.way": way, "model.conv": conv}
        return _make_learner(tuple(values.items()), self.statistics, self.inner_steps)

    def first_members(self, count: int | None) -> FewShotModel:
        """The model with its best `count` members alone; all of them for None."""
        meta, batch_stats = jax.tree.map(lambda leaf: leaf[:count], (self.meta, self.batch_stats))
        return self.changed(meta=meta, batch_stats=batch_stats, steps=self.steps[:count])

    def changed(self, **attributes: Any) -> FewShotModel:
        """The model with other attributes; a model card that was read then says so at its end."""
        new = dataclasses.replace(self, **attributes)
        if not self.card or new.settings == self.settings:
            return new
        original = self.card.partition(f"\n{_CHANGED}\n")[0].rstrip()
        note = _NOTE.format(**new.settings)
        return dataclasses.replace(new, card=f"{original}\n\n{_CHANGED}\n\n{note}\n")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a trained model that can be changed; the figures of its card depend on them."""
        return {
            "statistics": self.statistics,
            "inner_steps": self.inner_steps,
            "steps": ", ".join(map(str, self.steps)),
            "polarity": self.image_format.polarity,
        }


@functools.lru_cache
def _make_learner(
    values: tuple[tuple[str, bool | int | float | str], ...], statistics: str, inner_steps: int
) -> Learner:
    """One object for equal arguments, so that what is compiled for a model serves equal ones too."""
    config = config_lib.complete(dict(values))
    config.compute.remat = False  # It saves memory in training.
    learner = make_learner(config)
    return dataclasses.replace(learner, statistics=statistics, inner_steps=inner_steps)


def from_runs(runs: Sequence[TrainedRun]) -> FewShotModel:
    """The model of epochs of one run, best first, with as many inner steps as it was trained with.

    Its statistics classify each image alone: those of its training where these do, else `support`.
    """
    first = runs[0]
    meta, batch_stats = jax.tree.map(
        lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]),
        *[(run.meta, run.batch_stats) for run in runs],
    )
    steps = tuple(run.step for run in runs)
    channels = 0 if is_own(first.config.data.name) else first.image_shape[-1]
    model = without_weights(first.config, channels, steps)
    return dataclasses.replace(model, meta=meta, batch_stats=batch_stats)


def without_weights(config: ConfigDict, channels: int, steps: tuple[int, ...]) -> FewShotModel:
    """The model that a run's configuration describes, with images of so many channels and members of these steps.

    Channels mean nothing where inputs are no images.
    """
    own = is_own(config.data.name)
    mean, std = NORMALIZATIONS[config.data.normalize]
    polarity = "auto" if not own and is_inverted(config.data.name) else None
    trained = find_statistics(config.norm.train_statistics)
    statistics = (trained if trained.alone else SUPPORT).name
    return FewShotModel(
        config=FrozenConfigDict(config_lib.without_folders(config)),
        image_format=ImageFormat(config.data.image_size, channels, mean, std, polarity),
        meta=MetaParams({}, {}, {}),
        batch_stats={},
        steps=steps,
        statistics=statistics,
        inner_steps=config.train.inner_steps,
    )
