"""The memory of this machine."""

from __future__ import annotations

import contextlib
import os
import pathlib

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def host_memory() -> int:
    """Bytes of main memory that this process can have at most; 0 where that is not known.

    The least of the machine's and of what a container or a cluster's job allows.
    """
    limits = [_of_cgroup(folder, name) for folder in _own_cgroups() for name in _LIMIT_FILES]
    with contextlib.suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit > 0), default=0)


# Of the second and the first version of control groups.
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")


def _own_cgroups() -> list[pathlib.Path]:
    """The folders of the control groups this process is in, each of which may limit it."""
    folders = [_CGROUPS, _CGROUPS / "memory"]
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                inner = pathlib.PurePosixPath(path.lstrip("/"))
                folders += [_CGROUPS / controllers / part for part in (inner, *inner.parents)]
    return folders


def _of_cgroup(folder: pathlib.Path, name: str) -> int:
    """The limit that a control group's file states; 0 for "max", and where there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / name).read_text())
    return 0


def memory_text(count: float) -> str:
    """A number of bytes for people, such as "1.5 GiB"."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1024
    return f"{count:,.1f} {_UNITS[-1]}"
