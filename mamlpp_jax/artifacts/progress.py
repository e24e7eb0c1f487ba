"""How far training is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from absl import logging

from mamlpp_jax.utils.terminal import terminal_bar


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
        """Draws the bar at once on a terminal; logs nothing yet elsewhere.

        Args:
            total_steps: outer steps of the whole run.
            start_step: outer steps done by earlier runs.
            log_every_seconds: shortest time between two log lines when there is no terminal.
            stream: destination of the bar, drawn only if it is a terminal; default stderr.
            clock: seconds since any moment, for the log lines.
        """
        self._total = total_steps
        self._every = log_every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._stack = contextlib.ExitStack()
        self._bar: Any = None
        if self._stream.isatty():
            bar = terminal_bar(
                self._stream,
                total=total_steps,
                initial=start_step,
                unit=" steps",
                mininterval=0.5,
                miniters=1,  # a fixed count: otherwise the bar stalls when steps become slower
            )
            self._bar = self._stack.enter_context(bar)
        # Time and step of the last log line; set by the first update, so that the first rate
        # leaves out compilation.
        self._mark: tuple[float, int] | None = None

    def update(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        """Shows the latest outer step.

        Args:
            step: outer steps done in all.
            loss: mean query loss of the last step.
            accuracy: query accuracy of the last step, a fraction.
            epoch: counted from 0; people are shown it counted from 1, as in validation lines.
        """
        if self._bar is None:
            self._log(step, loss, accuracy, epoch)
            return
        texts = {"epoch": epoch + 1, "loss": f"{loss:.4f}", "accuracy": f"{100 * accuracy:.1f} %"}
        self._bar.set_postfix(texts, refresh=False)
        self._bar.update(step - self._bar.n)

    def message(self, text: str) -> None:
        """Prints a line above the bar, or logs it where there is none."""
        if self._bar is None:
            logging.info("%s", text)
        else:
            self._bar.write(text, file=self._stream)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands and ends its line."""
        self._stack.close()

    def _log(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        now = self._clock()
        if self._mark is None:
            self._mark = now, step
            return
        seconds, steps = now - self._mark[0], step - self._mark[1]
        if seconds < self._every or steps <= 0:
            return
        self._mark = now, step
        rate = steps / max(seconds, 1e-9)
        left = datetime.timedelta(seconds=round((self._total - step) / rate))
        logging.info(
            "step %d/%d, epoch %d: loss %.4f, accuracy %.1f %%, %.2f steps/s, ETA %s",
            *(step, self._total, epoch + 1, loss, 100 * accuracy, rate, left),
        )
