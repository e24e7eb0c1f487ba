"""Leaving a run early and in order: signals and a time limit, checked between dispatches."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from mamlpp_jax.errors import ConfigError

# sysexits.h EX_TEMPFAIL: try again. The run is saved and goes on when started again.
STOPPED_EXIT_CODE = 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # after the first, nothing raises KeyboardInterrupt


class StoppedError(Exception):
    """A run left early as requested; what is done so far is saved."""


class PreemptionHandler:
    """Decides whether a run should stop, for a signal or when `max_minutes` from now on (0: no limit) are over."""

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
        """Returns why to stop now, or "" to go on: the same in every process, which must all call it.

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
        if not _any_process(bool(text)):
            return ""
        return text or "another process is stopping"

    def check(self) -> None:
        """Raises a `StoppedError` where there is a reason to stop and nothing new to save."""
        _stop_for(self.reason())

    def check_signal(self) -> None:
        """Raises a `StoppedError` where a signal has come, to this process or another, before anything is to be saved.

        The time limit waits until some steps are done and saved, so that every start of a run gets further.
        """
        if _any_process(bool(self._signal)):
            _stop_for(self._signal or "another process is stopping")

    @contextlib.contextmanager
    def listening(self) -> Iterator[PreemptionHandler]:
        """Takes SIGTERM and SIGINT as requests to stop; a second one ends the process at once."""
        with _watching(_SIGNALS, self._on_signal):
            yield self

    @contextlib.contextmanager
    def noting_interrupts(self) -> Iterator[PreemptionHandler]:
        """Takes Ctrl-C as a request to stop, in a process that goes on; a second one raises KeyboardInterrupt.

        The handler of before stands again afterwards. Outside the main thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self._signal:
                signal.default_int_handler(number, frame)
            self._on_signal(number)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signal)

    def _on_signal(self, number: int) -> None:
        self._signal = self._signal or f"received {signal.Signals(number).name}"


def _stop_for(reason: str) -> None:
    if reason:
        raise StoppedError(f"{reason}; the run goes on when it is started again.")


def _any_process(flag: bool) -> bool:
    from mamlpp_jax.distributed import processes  # JAX, for which `leaving_at_once` does not wait

    return processes.any_process(flag)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Lets Ctrl-C end a command that has nothing to save at once, with exit code 130 and one line.

    It does so during an import, a compilation or a computation too.
    """
    with _watching((signal.SIGINT,)):
        yield


@contextlib.contextmanager
def _watching(
    numbers: Sequence[int], on_request: Callable[[int], None] | None = None
) -> Iterator[None]:
    """Handles signals without raising anything, and ends the process at once where they demand it.

    Python handlers cannot run while the main thread is inside XLA, so a thread reads the number of each signal as it
    comes. An exception of a handler would compete with that thread for how the process ends. Outside the main thread,
    where Python allows no handlers, this does nothing.

    With `on_request`, which is called in the main thread, the first signal is a request and the second one ends the
    process; without it the first one does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if on_request is not None:
            on_request(number)
            return
        # The operating system's handler does the same, except before and after `set_wakeup_fd`. If the buffer is full,
        # the thread has enough to read.
        with contextlib.suppress(BlockingIOError):
            writer.send(bytes([number]))

    writer.setblocking(False)
    watcher = threading.Thread(
        target=_watch, args=(reader, numbers, on_request is not None), daemon=True
    )
    watcher.start()
    # Undone from the last to the first: a closed writer ends the thread, which first obeys what came in time.
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.join)
        stack.enter_context(writer)
        for number in numbers:
            stack.callback(signal.signal, number, signal.signal(number, handle))
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, wakeup)
        yield


def _watch(reader: socket.socket, handled: Sequence[int], first_is_a_request: bool) -> None:
    """Reads the numbers of signals as they come: the first may be a request, the next ends the process."""
    with reader:
        while number := reader.recv(1):
            if number[0] not in handled:
                continue
            if not first_is_a_request:
                _write("stopped: interrupted")
                os._exit(128 + number[0])
            first_is_a_request = False
            name = signal.Signals(number[0]).name
            _write(f"received {name}: finishing the current dispatch and saving.")


def _write(text: str) -> None:
    """Writes a line to standard error without the logging module, whose lock the main thread may hold."""
    with contextlib.suppress(OSError):  # Ctrl-C has also ended the program that would have read it.
        os.write(2, f"\n{text}\n".encode())
