"""Starting several processes at once, and what they say and end with."""

import contextlib
import os
import pathlib
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 300  # seconds, for what should end by itself


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def started(commands, folder, **environment):
    """Starts commands at once; kills what is left of them at the end."""
    given = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = []
        for i, command in enumerate(commands):
            log = stack.enter_context((folder / f"process{i}.log").open("w"))
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=given, stdout=log, stderr=log
            )
            running.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield running


def codes(running, timeout=TIMEOUT):
    end = time.monotonic() + timeout
    return [process.wait(max(end - time.monotonic(), 0.1)) for process in running]


def logs(folder):
    return [path.read_text() for path in sorted(folder.glob("process*.log"))]
