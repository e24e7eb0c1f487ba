"""A process that runs a command for this one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command; however the block ends, the command is asked to stop, once, and awaited.

    A training saves then; a second signal would end it at once. So it is in a process group of its own, where Ctrl-C
    reaches this process alone.
    """
    process = subprocess.Popen(command, process_group=0, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def leave_when_terminated() -> None:
    """Makes SIGTERM raise `SystemExit` with the code of a stopped run, so that blocks such as `child` end in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED_EXIT_CODE))
