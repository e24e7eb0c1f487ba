"""Jobs in worker processes: each with a time limit, recorded when it ends, skipped when it is recorded.

A crash, or a compilation without end, costs its own job and no other: the worker is replaced.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from mamlpp_jax.utils.files import write_atomically

# A job needs a good part of a minute to compile: it is not begun with less time left.
_LEAST_SECONDS = 30.0
_LONGEST_TEXT = 2000  # characters of an error


class Job(NamedTuple):
    """A piece of work.

    Attributes:
        name: what its record is found by.
        function: "module:function", called in a worker process with `arguments`; returns what JSON can hold.
        arguments: of the function, as JSON can hold them too.
        limit: seconds after which it counts as timed out.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = {}
    limit: float = 120.0


class Ledger:
    """The records of finished jobs, a JSON line each.

    A record has "job", "status" ("ok", "failed", "timed out" or "crashed"), "seconds", and "result" or "error".
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.records: dict[str, dict[str, Any]] = {}
        for line in lines:
            record = json.loads(line)
            self.records[record["job"]] = record

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record, or replaces that of the same job; it is on the disk when this returns."""
        self.records[record["job"]] = record
        lines = [json.dumps(record) for record in self.records.values()]
        write_atomically(self._path, ("\n".join(lines) + "\n").encode())

    def unfinished(self, jobs: Iterable[Job], *, retry: bool) -> list[Job]:
        """The jobs without a record; with `retry` also those that did not go well."""
        done = {name for name, r in self.records.items() if r["status"] == "ok" or not retry}
        return [job for job in jobs if job.name not in done]


class _Worker:
    """A process that runs one job after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.started = 0.0

    def begin(self, job: Job) -> None:
        self.job, self.started = job, time.monotonic()
        self.connection.send((job.function, dict(job.arguments)))

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def run_jobs(
    jobs: Sequence[Job],
    record: Callable[[dict[str, Any]], None],
    *,
    workers: int,
    deadline: float,
) -> bool:
    """Runs jobs in order, several at a time.

    Args:
        jobs: what to run.
        record: called with the record of each job that ended or ran into its limit; a job that the deadline
            cut short has none.
        workers: how many processes.
        deadline: on the clock of `time.monotonic`.

    Returns:
        Whether every job has a record.
    """
    waiting, complete = list(jobs), True
    pool = [_Worker() for _ in range(min(workers, len(waiting)))]
    try:
        while True:
            for worker in pool:
                left = deadline - time.monotonic()
                if worker.job is None and waiting and left >= _LEAST_SECONDS:
                    worker.begin(waiting.pop(0))
            busy = [worker for worker in pool if worker.job is not None]
            if not busy:
                return complete and not waiting
            wait([worker.connection for worker in busy], timeout=0.5)
            for index, worker in enumerate(pool):
                if worker.job is None:
                    continue
                outcome = _outcome(worker)
                if outcome is None and time.monotonic() < deadline:
                    continue
                if outcome is None:
                    complete = False
                else:
                    record({"job": worker.job.name, **outcome})
                worker.job = None
                if outcome is None or outcome["status"] in ("timed out", "crashed"):
                    worker.end()
                    pool[index] = _Worker()
    finally:
        for worker in pool:
            worker.end()


def _outcome(worker: _Worker) -> dict[str, Any] | None:
    """What became of a worker's job; None while it is under way."""
    assert worker.job is not None
    seconds = round(worker.seconds(), 1)
    try:
        if worker.connection.poll():
            return {**worker.connection.recv(), "seconds": seconds}
    except (EOFError, OSError):
        worker.process.join(1)  # Its exit code comes a moment later.
        error = f"the process ended with exit code {worker.process.exitcode}"
        return {"status": "crashed", "seconds": seconds, "error": error}
    if seconds > worker.job.limit:
        return {"status": "timed out", "seconds": seconds, "error": "took too long"}
    return None


def _serve(connection: Connection) -> None:
    """What a worker process does."""
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            module, function = name.split(":")
            result = getattr(importlib.import_module(module), function)(**arguments)
            connection.send({"status": "ok", "result": result})
        except Exception as error:  # of any kind: it is this job's, and the next one goes on
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"[:_LONGEST_TEXT]
            connection.send({"status": "failed", "error": text})
