"""Several processes that compute one run together: joining, agreeing, and leaving when one is lost.

Every process runs the same program on its share of the tasks. They meet in collective operations, so all
must take the same decisions in the same order. Decisions that depend on a clock or a local disk are shared
by the functions below. With one process each function is a plain no-op or the obvious answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mamlpp_jax.errors import ConfigError

# A process silent for so long counts as lost, and the others end. JAX's own 100 s would waste an allocation.
_HEARTBEAT_SECONDS = 30
# The others wait for a process that prepares a data set; a lost process ends the wait earlier.
_PATIENCE_SECONDS = 24 * 3600
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]")


class Group(NamedTuple):
    """The processes that compute a run together."""

    detect: bool = False  # a cluster (SLURM, Open MPI, Kubernetes, TPU pod) supplies None fields
    coordinator_address: str | None = None  # host:port of process 0, which the others must reach
    num_processes: int | None = None  # number of processes
    process_id: int | None = None  # number of this one, from 0


def check_group(group: Group) -> None:
    """Checks the flags of one process; a `ConfigError` names those that are missing or do not fit together."""
    fields = group._asdict()
    del fields["detect"]
    missing = [f"--{name}" for name, value in fields.items() if value is None]
    if missing and len(missing) < len(fields) and not group.detect:
        raise ConfigError(
            f"{', '.join(missing)} missing: several processes need --coordinator_address=HOST:PORT, "
            "--num_processes and --process_id together, or --distributed on a cluster that supplies them."
        )
    address, processes, process = group[1:]
    if address is not None and not re.fullmatch(
        r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}", address
    ):
        raise ConfigError(
            f"--coordinator_address is {address!r}; it must be HOST:PORT of process 0, such as "
            "node1:12345 or [::1]:12345."
        )
    if processes is not None and processes < 1:
        raise ConfigError(f"--num_processes is {processes}; it must be at least 1.")
    if process is not None and (process < 0 or (processes is not None and process >= processes)):
        raise ConfigError(
            f"--process_id is {process}; it must be from 0 to --num_processes less 1"
            + ("." if processes is None else f" ({processes - 1}).")
        )


def join(group: Group, timeout_seconds: int = 300) -> int:
    """Connects this process with the others of a checked group; to be called before JAX is used for anything else.

    Returns the number of processes that compute the run, 1 without a group. Where the cluster cannot be detected, or
    process 0 cannot be reached, that is a `ConfigError`.
    """
    if not group.detect and group.coordinator_address is None:
        return 1
    try:
        jax.distributed.initialize(
            group.coordinator_address,
            group.num_processes,
            group.process_id,
            cluster_detection_method=None if group.detect else "deactivate",
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed found no SLURM, Open MPI, Kubernetes or TPU pod here ({error}) Start the "
            "processes through one (srun), or give --coordinator_address, --num_processes and "
            "--process_id."
        ) from error
    except RuntimeError as error:
        raise ConfigError(
            f"process {group.process_id if group.process_id is not None else '?'} could not join the "
            f"others at {group.coordinator_address or 'the detected coordinator'}: "
            f"{str(error).splitlines()[0]} Its port must be free on process 0's host and reachable "
            "from the others."
        ) from error
    return _index_and_count()[1]


def _index_and_count() -> tuple[int, int]:
    """This process's number, and how many there are, also before the back end starts.

    JAX has no public name for it then: its own functions start the back end, whose devices are still to be set.
    """
    try:
        from jax._src.distributed import global_state

        return global_state.process_id, global_state.num_processes
    except (ImportError, AttributeError):
        return jax.process_index(), jax.process_count()


def sharing_host(group: Group, processes: int) -> int:
    """The number of processes that certainly share this host's cores: all on a loopback address, else 1.

    A cluster that puts several processes on a host binds each to cores of its own.
    """
    host = (group.coordinator_address or "").rpartition(":")[0]
    return processes if _LOOPBACK.fullmatch(host) else 1


def joined() -> bool:
    """Returns True where this process has been connected with others."""
    return jax.distributed.is_initialized()


def process_prefix() -> str:
    """The beginning of a message: "process 1 of 2: ", or "" where there is one process."""
    return "process {} of {}: ".format(*_index_and_count()) if joined() else ""


def is_first() -> bool:
    """Returns True in process 0, which alone reports and writes."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called it with this name, which may repeat."""
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=f"mamlpp_{name}", timeout_ms=1000 * _PATIENCE_SECONDS)


@contextlib.contextmanager
def first_then_others(name: str) -> Iterator[None]:
    """Runs the block in process 0, then in the others, which find its files on a shared disk."""
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def any_process(flag: bool) -> bool:
    """Returns True where any process has set the flag; every process must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array([flag])).any())


def check_same(name: str, content: Sequence[bytes | memoryview], hint: str) -> None:
    """Checks that every process has the same content, by its SHA-256; every process must call it.

    Where it differs, every process raises a `ConfigError` with the name of the compared thing and the hint.
    """
    if jax.process_count() == 1:
        return
    hashed = hashlib.sha256()
    for part in content:
        hashed.update(part)
    digests = multihost_utils.process_allgather(np.frombuffer(hashed.digest(), np.uint8))
    others = [str(i) for i, other in enumerate(digests) if (other != digests[0]).any()]
    if others:
        raise ConfigError(
            f"{name} of process(es) {', '.join(others)} differs from that of process 0. {hint}"
        )


def leave() -> None:
    """Disconnects at the end of a run, when every process has reached it."""
    if joined():
        wait_for_all("end")
        jax.distributed.shutdown()


def hard_exit(exit_code: int) -> NoReturn:
    """Exits with a code other than 0 and without cleanup; a clean shutdown could deadlock.

    It would wait for the other processes, which may wait for this one, and for the threads of a save that failed,
    which wait for one another. The others notice this exit within seconds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
