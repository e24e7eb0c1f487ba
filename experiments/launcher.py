"""Runs commands until it is told to stop."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE

# (command, log file) -> exit code.
Launch = Callable[[Sequence[str], pathlib.Path], int]


class Launcher:
    """Runs commands, from several threads too; told to stop, it asks those under way to, and begins no other."""

    def __init__(self) -> None:
        self._stopping = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def __call__(self, command: Sequence[str], log: pathlib.Path) -> int:
        """Returns the exit code of a command, whose output is appended to `log`; 75 when it was stopped."""
        if self._stopping:
            return STOPPED_EXIT_CODE
        with log.open("ab") as output:
            # In a group of its own, so that Ctrl-C reaches it once, through `stop`; not in a session of its
            # own, where Linux would not weigh its niceness against that of other work.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            self._running.add(process)
            if self._stopping:  # while it was being started
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        return STOPPED_EXIT_CODE if self._stopping else code

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Stops; a signal handler."""
        del number, frame
        self._stopping = True
        for process in list(self._running):
            process.terminate()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Makes SIGTERM and SIGINT call `stop` within the block."""
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
