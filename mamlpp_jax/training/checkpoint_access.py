"""Read-only access to a run's checkpoints, which another process may be writing meanwhile."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training.checkpoints import CheckpointReader

_TRIES = 5
_PAUSE_SECONDS = 0.5

Read = TypeVar("Read")


def read_checkpoints(workdir: pathlib.Path, read: Callable[[CheckpointReader], Read]) -> Read:
    """Calls `read` with a run's checkpoints, and changes nothing.

    Training removes a checkpoint when there are better and later ones. Where one goes while it is read, reading
    begins anew with the checkpoints that are there by then.

    Raises:
        WorkdirError: there are none, or whatever `read` raises while the checkpoints stay as they are.
    """
    for left in reversed(range(_TRIES)):
        with CheckpointReader(workdir) as checkpoints:
            try:
                return read(checkpoints)
            except WorkdirError:
                time.sleep(_PAUSE_SECONDS if left else 0)  # the removal may be under way
                if not left or not checkpoints.have_vanished():
                    raise
    raise AssertionError("unreachable")


def report_state(
    workdir: pathlib.Path, config: ConfigDict, latest: int, used: Sequence[int]
) -> None:
    """Logs the outer steps of the used checkpoints; warns where the latest one is not the end of the run."""
    steps, total = ", ".join(map(str, used)), config_lib.total_steps(config)
    if latest < total:
        logging.warning(
            "the run in %s is not finished: its latest whole checkpoint is of outer step %d of %d. Used: what it "
            "learned until outer step %s.",
            *(workdir, latest, total, steps),
        )
    else:
        logging.info("loaded %s after outer step %s", workdir, steps)
