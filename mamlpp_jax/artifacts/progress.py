"""Progress of a training: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from absl import logging

from mamlpp_jax.utils.terminal import can_redraw, live_display


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

        Earlier runs have done `start_step` of the outer steps. `clock` gives seconds since any moment, for the rate.
        """
        self._total = total_steps
        self._every = log_every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._stack = contextlib.ExitStack()
        self._bar: Any = None
        if can_redraw(self._stream):
            self._bar = self._stack.enter_context(_bar(self._stream))
            self._bar.add_task("", total=total_steps, completed=start_step)
        # Time and step from which the rate is counted; set by the first update, to leave out compilation.
        self._mark: tuple[float, int] | None = None

    def update(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        """Shows the latest outer step: its loss, and its query accuracy as a fraction.

        Epochs are counted from 0; people are shown them counted from 1, as in validation lines.
        """
        now = self._clock()
        self._mark = self._mark or (now, step)
        seconds, steps = now - self._mark[0], step - self._mark[1]
        text = f"epoch {epoch + 1}: loss {loss:.4f}, accuracy {100 * accuracy:.1f} %"
        rate = steps / max(seconds, 1e-9)
        if rate > 0:
            text += f", {rate:.2f} steps/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)
        if seconds < self._every or steps <= 0:
            return
        self._mark = now, step
        if self._bar is None:
            left = datetime.timedelta(seconds=round((self._total - step) / rate))
            logging.info("step %d/%d, %s, ETA %s", step, self._total, text, left)

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
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
        # Cut on a narrow terminal.
        progress.TextColumn("{task.description}", table_column=table.Column(no_wrap=True, ratio=1)),
        expand=True,
        speed_estimate_period=math.inf,  # Steps may take minutes.
    )
