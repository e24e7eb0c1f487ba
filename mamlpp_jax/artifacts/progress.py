"""Progress of a training: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import collections
import contextlib
import datetime
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from absl import logging

from mamlpp_jax.utils.terminal import can_redraw, live_display

_PACES = 12  # latest updates that the rate is taken from


class Progress:
    """A progress bar on a terminal; elsewhere a log line now and then. A context manager."""

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        log_every_seconds: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draws the bar at once where `stream`, by default stderr, is a terminal; logs nothing yet elsewhere.

        Earlier runs have done `start_step` of the outer steps. `clock` gives seconds since any moment.
        """
        self._total = total_steps
        self._every = log_every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._stack = contextlib.ExitStack()
        self._bar: Any = None
        if can_redraw(self._stream):
            self._bar = self._stack.enter_context(_bar(self._stream))
            self._bar.add_task("", total=total_steps, completed=start_step, eta="")
        self._step, self._logged = start_step, clock()
        self._paces: collections.deque[float] = collections.deque(maxlen=_PACES)

    def update(
        self, step: int, loss: float, accuracy: float, epoch: int, seconds: float, later: float = 0
    ) -> None:
        """Shows the latest outer step: its loss, and its query accuracy as a fraction.

        Epochs are counted from 0; people are shown them counted from 1, as in validation lines. The steps since the
        last update took `seconds`, with the compilation of a first one; validations to come will take `later` seconds.
        """
        self._paces.append(seconds / max(step - self._step, 1))
        self._step = step
        text = f"epoch {epoch + 1}: training loss {loss:.4f}, accuracy {100 * accuracy:.1f} %"
        eta = ""
        if len(self._paces) > 1:  # The lower third leaves out those that were compiled.
            pace = max(sorted(self._paces)[(len(self._paces) - 1) // 3], 1e-9)
            text += f", {1 / pace:.2f} steps/s"
            eta = str(datetime.timedelta(seconds=round((self._total - step) * pace + later)))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=text, eta=eta)
        elif eta and self._clock() - self._logged >= self._every:
            self._logged = self._clock()
            logging.info("step %d/%d, %s, ETA %s", step, self._total, text, eta)

    def message(self, text: str) -> None:
        """Prints a line above the bar, or logs it where there is none."""
        if self._bar is None:
            logging.info("%s", text)
        else:
            self._bar.console.print(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands and ends its line."""
        self._stack.close()


def _bar(stream: TextIO) -> Any:
    from rich import progress, table

    return live_display(
        stream,
        progress.BarColumn(bar_width=8),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("ETA {task.fields[eta]}"),
        # Cut on a narrow terminal.
        progress.TextColumn("{task.description}", table_column=table.Column(no_wrap=True, ratio=1)),
        expand=True,
    )
