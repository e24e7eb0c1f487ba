"""Leaving a run early and in order: signals and a time limit, looked at between dispatches."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import ConfigError

# sysexits.h EX_TEMPFAIL: try again. The run is saved and goes on when started again.
STOPPED_EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A run left early as requested; what is done so far is saved."""


class PreemptionHandler:
    """Knows whether a run should stop.

    Args:
        max_minutes: of the whole process, from now on; 0 for no limit.

    Raises:
        ConfigError: the limit is negative or not a finite number.
    """

    def __init__(self, max_minutes: float = 0.0) -> None:
        if not (max_minutes >= 0 and math.isfinite(max_minutes)):
            raise ConfigError(
                f"--max_minutes is {max_minutes}; it must be a number of minutes, or 0 for no limit."
            )
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._max_minutes = max_minutes
        self._looked_at: float | None = None
        self._longest = 0.0
        self._signal = ""

    def reason(self) -> str:
        """Why to stop now, "" to go on; the same in every process, which must all call it.

        The time limit counts the longest time between two calls so far, so that the work until the
        next call ends in time.
        """
        now = time.monotonic()
        if self._looked_at is not None:
            self._longest = max(self._longest, now - self._looked_at)
        self._looked_at = now
        text = self._signal
        if not text and now + self._longest > self._deadline:
            text = f"--max_minutes={self._max_minutes:g} is used up"
        if not processes.any_process(bool(text)):
            return ""
        return text or "another process is stopping"

    def check(self) -> None:
        """Stops where there is nothing new to save.

        Raises:
            StoppedError: there is a reason to.
        """
        _stop_for(self.reason())

    def check_signal(self) -> None:
        """Stops for a signal, before there is anything to save.

        The time limit waits until some steps are done and saved, so that every start of a run gets further.

        Raises:
            StoppedError: a signal has come, to this process or another.
        """
        if processes.any_process(bool(self._signal)):
            _stop_for(self._signal or "another process is stopping")

    @contextlib.contextmanager
    def listening(self) -> Iterator[PreemptionHandler]:
        """Takes SIGTERM and SIGINT as requests to stop; a second one ends the process at once.

        Python runs signal handlers between two of its own instructions, so not while the main thread waits for a
        compilation or a dispatch. A thread of ours hears of each signal when it comes.
        """
        with _watching(first_is_a_request=True):
            before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
            try:
                yield self
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or f"received {signal.Signals(number).name}"


def _stop_for(reason: str) -> None:
    if reason:
        raise StoppedError(f"{reason}; the run goes on when it is started again.")


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Lets Ctrl-C end a command that has nothing to save at once, also during a compilation or a computation."""
    with _watching(first_is_a_request=False):
        yield


@contextlib.contextmanager
def _watching(first_is_a_request: bool) -> Iterator[None]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, first_is_a_request), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writer)  # which ends the thread


def _watch(reader: int, first_is_a_request: bool) -> None:
    """Reads the numbers of signals as they come: the first may be a request, the next ends the process."""
    with os.fdopen(reader, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] not in _SIGNALS:
                continue
            # Not through the logging module, whose lock the main thread may hold where it is stuck.
            if not first_is_a_request:
                os.write(2, b"\nstopped: interrupted\n")
                os._exit(128 + number[0])
            first_is_a_request = False
            name = signal.Signals(number[0]).name
            os.write(2, f"\nreceived {name}: finishing the current dispatch and saving.\n".encode())
