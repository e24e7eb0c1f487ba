"""One writer per working directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

from absl import logging

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.files import naming

LOCK_FILE = "lock"


@contextlib.contextmanager
def only_writer(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing into a working directory, which is made when missing.

    The operating system holds the lock for the open file and drops it when the process ends, however it
    ends: a dead holder never blocks. The file says who holds it; it stays behind.

    Raises:
        WorkdirError: another process holds it (names its host and pid), or it cannot be made or written.
    """
    path = workdir / LOCK_FILE
    with naming(workdir, "make the workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
    with naming(path, "open"), contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+b"))
        _acquire(file, path)
        stack.pop_all()
    with file:
        yield


def _acquire(file: BinaryIO, path: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        raise WorkdirError(
            f"workdir {path.parent} is in use by process {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}. Wait for it or end it; or use another --workdir."
        ) from error
    except OSError as error:
        # Some network file systems have no locks. The run must not fail for that.
        logging.warning("%s cannot be locked (%s): start one run at a time", path, error.strerror)
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode() + b"\n")
    file.flush()


def _holder(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:  # It has just been locked and not yet been written.
        return {}
    return holder if isinstance(holder, dict) else {}
