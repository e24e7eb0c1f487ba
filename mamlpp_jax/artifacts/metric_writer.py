"""The metrics of a run, as JSON lines and TensorBoard events.

Takes plain numbers; knows nothing of JAX.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from absl import logging

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors, write_atomically

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"

Record = Mapping[str, float | int]


class MetricsWriter:
    """Appends to a run's `metrics.jsonl`, `timing.jsonl` and TensorBoard events.

    Opening the files removes what a crashed run wrote after its last checkpoint: lines of later
    steps and a torn last line. `metrics.jsonl` holds no measured times, so equal numbers give
    equal bytes, whether or not the run was interrupted. A context manager. Every method raises a `WorkdirError` where a
    file cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, tensorboard: bool = True) -> None:
        """Opens the files in the run's folder, made when missing, for appending after `start_step` outer steps."""
        workdir = pathlib.Path(workdir)
        with wrap_os_errors(workdir, "create"):
            workdir.mkdir(parents=True, exist_ok=True)
        _truncate(workdir / TIMING_FILE, start_step)
        last = _truncate(workdir / METRICS_FILE, start_step)
        if last < start_step:
            logging.warning(
                "%s ends at outer step %d, although the run goes on after step %d: the lines between were "
                "lost, and stay missing.",
                *(workdir / METRICS_FILE, last, start_step),
            )
        self._events: EventWriter | None = None
        # The stack closes the files already open when a later one cannot be opened or closed.
        with contextlib.ExitStack() as stack:
            self._metrics = _JsonLines(workdir / METRICS_FILE)
            stack.callback(self._metrics.close)
            self._timing = _JsonLines(workdir / TIMING_FILE)
            stack.callback(self._timing.close)
            if tensorboard:
                self._events = EventWriter(workdir / "tensorboard", start_step)
                stack.callback(self._events.close)
            self._stack = stack.pop_all()

    def train(self, records: Sequence[Record]) -> None:
        """Writes one line per outer step, each with the key "step", and its scalars under `train/`."""
        self._write(records, "train")

    def validation(self, record: Record) -> None:
        """Writes one line for a validation after the step `record["step"]`, scalars under `val/`."""
        self._write([record], "val")

    def timing(self, record: Mapping[str, float | int | str]) -> None:
        """Writes one line of measured times to `timing.jsonl`; `record` has the key "step"."""
        self._timing.append([_plain_record(record)])

    def flush(self) -> None:
        """Puts everything on the disk; call it before a checkpoint, which relies on these lines."""
        self._metrics.flush()
        self._timing.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, records: Iterable[Record], prefix: str) -> None:
        plain = [_plain_record(record) for record in records]
        self._metrics.append(plain)
        if self._events is not None:
            self._events.append(plain, prefix)


class EventWriter:
    """A TensorBoard event file with scalars, written in the caller's thread.

    tensorboardX's SummaryWriter passes its events through a queue of ten to a thread. When a full
    disk ends that thread, the queue stays full and the training loop waits for ever; here the
    error reaches the caller, as a `WorkdirError`. One event holds all scalars of a step.
    """

    def __init__(self, directory: pathlib.Path, start_step: int) -> None:
        """Opens a new file in a folder, made when missing.

        TensorBoard hides steps of earlier files that come after `start_step`.
        """
        import tensorboardX
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # Without the step, a quick restart would overwrite a file of the same second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{start_step}"
        self._path = directory / name
        with wrap_os_errors(self._path, "write"):
            directory.mkdir(exist_ok=True)
            self._file = tensorboardX.RecordWriter(str(self._path))
        self._add(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start_step + 1, session_log=start)

    def append(self, records: Iterable[Mapping[str, Any]], prefix: str) -> None:
        """Writes one event per record, which has the key "step".

        Scalars are grouped by the prefix: under "val", "val_loss" becomes "val/loss".
        """
        for record in records:
            values = [
                self._summary.Value(
                    tag=f"{prefix}/{key.removeprefix(prefix + '_')}", simple_value=value
                )
                for key, value in record.items()
                if key != "step"
            ]
            self._add(step=record["step"], summary=self._summary(value=values))

    def flush(self) -> None:
        """Hands everything to the operating system."""
        with wrap_os_errors(self._path, "write"):
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with wrap_os_errors(self._path, "write"):
            self._file.close()

    def _add(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with wrap_os_errors(self._path, "write"):
            self._file.write(event.SerializeToString())


class NullWriter:
    """Replaces `MetricsWriter` and `Progress` in every process but the first: does nothing."""

    def _ignore(self, *_: object, **__: object) -> None:
        """Does nothing."""

    train = validation = timing = flush = update = message = _ignore

    def __enter__(self) -> NullWriter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_metrics(workdir: pathlib.Path, file: str = METRICS_FILE) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`, records of training ("loss") and validation ("val_accuracy"), or `timing.jsonl`.

    The run may still be writing: a torn last line is left out. A `WorkdirError` names the line of other damage.
    """
    return [record for record, _ in _read_lines(pathlib.Path(workdir) / file)]


class _JsonLines:
    """A file of JSON lines, open for appending."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        with wrap_os_errors(path, "write"):
            self._file: BinaryIO = path.open("ab")

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        # Handed to the system at once: a killed process then loses no record.
        with wrap_os_errors(self._path, "write"):
            self._file.write("".join(json.dumps(record) + "\n" for record in records).encode())
            self._file.flush()

    def flush(self) -> None:
        with wrap_os_errors(self._path, "write"):
            self._file.flush()
            os.fsync(self._file.fileno())
            # A removed file can still be written to, but nobody will ever read it.
            self._path.stat()

    def close(self) -> None:
        with wrap_os_errors(self._path, "write"):
            self._file.close()


def _plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with NumPy's and JAX's numbers as Python's; NaN and infinity stay."""
    return {k: value.item() if hasattr(value, "item") else value for k, value in record.items()}


def _read_lines(path: pathlib.Path) -> list[tuple[dict[str, Any], bytes]]:
    """The records of a JSON-lines file and the bytes of each; without a torn last line."""
    with wrap_os_errors(path, "read"):
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = None
        with contextlib.suppress(ValueError):
            record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append((record, line))
        elif number < len(lines):
            raise WorkdirError(
                f"{path}, line {number}, is not a JSON object with a whole number as its step; "
                "only the last line may be torn. Repair or remove the line, or start in another "
                "working directory"
            )
    return records


def _truncate(path: pathlib.Path, last_step: int) -> int:
    """Drops lines of steps after `last_step`; the others keep their bytes. Returns the greatest step, or 0."""
    if not path.exists():
        return 0
    lines = [(record["step"], line) for record, line in _read_lines(path)]
    lines = [(step, line) for step, line in lines if step <= last_step]
    write_atomically(path, b"".join(line + b"\n" for _, line in lines))
    return max((step for step, _ in lines), default=0)
