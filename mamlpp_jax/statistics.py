"""Batch-norm statistics: what normalises the support and the query pass of an inner step, one record per mode.

A record carries all there is to know of its mode; configuration, loops, classifier, help and reports read it here. To
add a mode, add a record:

    STATISTICS["mixed"] = Statistics("mixed", "...", query=lambda running, support: ...)

This module needs no JAX, so that configurations and `--help` can list the modes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mamlpp_jax.errors import ConfigError

if TYPE_CHECKING:
    from mamlpp_jax.types import Moments, RunningStats


def _own(*given: Any) -> None:
    """The moments of the batch that is normalised."""


def _running(running: RunningStats, *given: Any) -> Moments:
    return running


def _of_support(running: RunningStats, support: Callable[[], Moments]) -> Moments:
    return support()


class Statistics(NamedTuple):
    """One statistics mode.

    Attributes:
        name: the value of `norm.train_statistics` and `norm.eval_statistics`.
        text: a sentence that explains the mode to a reader of results.
        support: running statistics of the inner step -> moments that normalise the support pass; None for its own.
        query: (running statistics of the inner step, function that computes the support set's moments at the same
            weights and step) -> moments that normalise the query pass; None for its own.
        learned: entries that every normalised layer learns beside scale and bias, with the numbers they start from.
        annealed: whether running statistics come with `anneal`, the share of the way from the batch's moments to them.
        reads_running: whether running statistics are read.
        alone: whether each query is predicted independently of the others (inductive).

    Example:
        >>> maml.STATISTICS["support"].alone
        True
    """

    name: str
    text: str
    support: Callable[[RunningStats], Moments | None] = _own
    query: Callable[[RunningStats, Callable[[], Moments]], Moments | None] = _own
    learned: tuple[tuple[str, tuple[float, ...]], ...] = ()
    annealed: bool = False
    reads_running: bool = False
    alone: bool = True

    @property
    def needs_training(self) -> bool:
        """Whether only a model trained in this mode has what it needs."""
        return bool(self.learned)

    @property
    def inner_loop(self) -> tuple[Any, ...]:
        """Equal in modes that differ only in how queries are normalised."""
        return self.support, self.learned, self.annealed


BATCH = Statistics(
    "batch",
    "a query is normalised together with the other queries of its task, so its prediction depends on them "
    "(transductive)",
    alone=False,
)
SUPPORT = Statistics(
    "support",
    "queries are normalised by the moments of the support set, so each prediction is made alone (inductive)",
    query=_of_support,
)
_RECORDS = (
    BATCH,
    Statistics(
        "running",
        "support set and queries are normalised by moments accumulated in training, so each prediction is made alone "
        "(inductive)",
        support=_running,
        query=_running,
        reads_running=True,
    ),
    SUPPORT,
    # `models.moments` has the formulas of these two.
    # Bronskill, Gordon, Requeima, Nowozin, Turner, "TaskNorm", ICML 2020.
    Statistics(
        "tasknorm",
        "each query is normalised by the moments of the support set blended with its own, so each prediction is made "
        "alone (inductive); needs a model trained in this mode",
        query=_of_support,
        learned=(("blend", (0.0, 0.0)),),
    ),
    # Ioffe, "Batch Renormalization", NIPS 2017.
    Statistics(
        "renorm",
        "as `running`, with the derivatives of the batch's own moments in the inner loop, so each prediction is made "
        "alone (inductive)",
        support=_running,
        query=_running,
        annealed=True,
        reads_running=True,
    ),
)
STATISTICS: dict[str, Statistics] = {record.name: record for record in _RECORDS}


def find_statistics(mode: Statistics | str, called: str = "statistics") -> Statistics:
    """Finds the record of a mode by its name; a record is returned as it is.

    An unknown name is a `ConfigError` that lists the known ones and names the argument, `called`.
    """
    if isinstance(mode, Statistics):
        return mode
    if not isinstance(mode, str) or mode not in STATISTICS:
        raise ConfigError(f"{called} is {mode!r}; choose one of {', '.join(STATISTICS)}.")
    return STATISTICS[mode]


def check_usable(
    mode: Statistics | str, trained: Statistics | str, averaged: bool, called: str = "statistics"
) -> Statistics:
    """Finds the record of a mode that a model trained in another mode can be used with.

    `averaged` is True for a model whose weights are a moving average, which running statistics do not belong to.

    Raises:
        ConfigError: the mode is unknown, or the model lacks what it needs; names the argument, `called`.
    """
    chosen, trained = find_statistics(mode, called), find_statistics(trained)
    if chosen.needs_training and chosen.learned != trained.learned:
        learned = " and ".join(name for name, _ in chosen.learned)
        raise ConfigError(
            f"{called} is {chosen.name!r}, but the model is trained with {trained.name} statistics, and only training "
            f"with {chosen.name} (norm.train_statistics={chosen.name}) learns its {learned}; choose another one."
        )
    if chosen.reads_running and averaged:
        raise ConfigError(
            f"{called} is {chosen.name!r}, but the model is a moving average of weights (train.average_decay), and "
            "running statistics are those of the last ones; choose batch or support, or train.average_decay=0."
        )
    return chosen
