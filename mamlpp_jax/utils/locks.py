"""One process at a time: the writer of a working directory, the maker of a cached data set."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import BinaryIO

from absl import logging

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors

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
    with wrap_os_errors(workdir, "make the workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
    with wrap_os_errors(path, "open"), contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+b"))
        if not _lock(file, path):
            raise WorkdirError(
                f"workdir {workdir} is in use by {_holder(file)}. Wait for it or end it; or use another --workdir."
            )
        _sign(file)
        stack.pop_all()
    with file:
        yield


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path, work: str) -> Iterator[None]:
    """Keeps processes out of the block while another is in it: they wait, and say for which work.

    The lock file stays behind; its folder must exist.
    """
    with path.open("a+b") as file:
        if not _lock(file, path):
            logging.info("waiting for %s, which is %s", _holder(file), work)
            _lock(file, path, wait=True)
        _sign(file)
        yield


def _lock(file: BinaryIO, path: pathlib.Path, wait: bool = False) -> bool:
    """Locks an open file unless another process holds the lock; returns whether that was so."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        # Windows and some network file systems have no such locks. The run must not fail for that.
        logging.warning("%s cannot be locked (%s): start one run at a time", path, error)
    return True


def _sign(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode() + b"\n")
    file.flush()


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    holder = None
    with contextlib.suppress(ValueError):  # It has just been locked and not yet been signed.
        holder = json.loads(file.read())
    if not isinstance(holder, dict):
        holder = {}
    return f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
