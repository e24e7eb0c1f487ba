"""What a run tells while it runs: metric files, TensorBoard and the progress bar.

Takes plain numbers; knows nothing of JAX.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import operator
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from absl import logging

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors, write_atomically

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"

Row = Mapping[str, float | int]


# --- Metric files and TensorBoard -----------------------------------------------------------------


class MetricsWriter:
    """Appends to a run's `metrics.jsonl`, `timing.jsonl` and TensorBoard events.

    Opening it takes back what a crashed run wrote after its last checkpoint: lines of later steps
    and a torn last line are dropped. `metrics.jsonl` holds nothing a clock touched, so equal
    numbers give equal bytes, whether or not the run was interrupted. A context manager.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, tensorboard: bool = True) -> None:
        """Opens the files for appending.

        Args:
            workdir: the run's directory; made when missing.
            start_step: outer steps already done; what later steps reported is removed.
            tensorboard: whether to write events to `workdir/tensorboard`.

        Raises:
            WorkdirError: a file is damaged before its last line, or cannot be written.
        """
        workdir = pathlib.Path(workdir)
        with wrap_os_errors(workdir, "create"):
            workdir.mkdir(parents=True, exist_ok=True)
        for name in (METRICS_FILE, TIMING_FILE):
            _truncate(workdir / name, start_step)
        _warn_of_gap(workdir / METRICS_FILE, start_step)
        self._events: _Events | None = None
        # The stack closes the files already open when a later one cannot be opened or closed.
        with contextlib.ExitStack() as stack:
            self._metrics = _JsonLines(workdir / METRICS_FILE)
            stack.callback(self._metrics.close)
            self._timing = _JsonLines(workdir / TIMING_FILE)
            stack.callback(self._timing.close)
            if tensorboard:
                self._events = _Events(workdir / "tensorboard", start_step)
                stack.callback(self._events.close)
            self._stack = stack.pop_all()

    def train(self, rows: Sequence[Row]) -> None:
        """Writes one line per outer step, and its scalars under `train/`.

        Args:
            rows: numbers of consecutive steps, each with the key "step".

        Raises:
            WorkdirError: a file cannot be written.
        """
        self._write(rows, "train")

    def validation(self, row: Row) -> None:
        """Writes one line for a validation after the step `row["step"]`, scalars under `val/`.

        Raises:
            WorkdirError: a file cannot be written.
        """
        self._write([row], "val")

    def timing(self, row: Mapping[str, float | int | str]) -> None:
        """Writes one line of measured times to `timing.jsonl`; `row` has the key "step".

        Raises:
            WorkdirError: the file cannot be written.
        """
        self._timing.append([_plain_row(row)])

    def flush(self) -> None:
        """Puts everything on the disk: call it before a checkpoint, which counts on these lines.

        Raises:
            WorkdirError: a file cannot be written.
        """
        self._metrics.flush()
        self._timing.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing.

        Raises:
            WorkdirError: a file cannot be written.
        """
        self._stack.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, rows: Iterable[Row], prefix: str) -> None:
        plain = [_plain_row(row) for row in rows]
        self._metrics.append(plain)
        if self._events is not None:
            self._events.append(plain, prefix)


class Silent:
    """Stands in for `MetricsWriter` and `Progress` in a process that leaves reporting to another."""

    def train(self, rows: Sequence[Row]) -> None:
        """Does nothing."""

    def validation(self, row: Row) -> None:
        """Does nothing."""

    def timing(self, row: Mapping[str, float | int | str]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def update(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`: rows of training ("loss") and validation ("val_accuracy").

    Args:
        workdir: the run's directory; the run may still be writing.

    Returns:
        One dict per line, in the order written; a torn last line is left out.

    Raises:
        WorkdirError: the file is missing, or damaged elsewhere; the message names file and line.
    """
    return [row for row, _ in _read_lines(pathlib.Path(workdir) / METRICS_FILE)]


class _JsonLines:
    """A file of JSON lines, open for appending."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        with wrap_os_errors(path, "write"):
            self._file: BinaryIO = path.open("ab")

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        # Handed to the system at once: a killed process then loses nothing it had reported.
        with wrap_os_errors(self._path, "write"):
            self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
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


class _Events:
    """A TensorBoard event file with scalars, written in the caller's thread.

    tensorboardX's SummaryWriter hands its events to a thread through a queue of ten. When a full
    disk ends that thread, the queue stays full and the training loop waits for ever; here the
    error reaches the caller. One event holds all scalars of a step.
    """

    def __init__(self, directory: pathlib.Path, start_step: int) -> None:
        import tensorboardX
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # Named by the step too, lest a quick restart overwrite a file of the same second.
        name = f"events.out.tfevents.{int(time.time())}.{os.uname().nodename}.{start_step}"
        self._path = directory / name
        with wrap_os_errors(self._path, "write"):
            directory.mkdir(exist_ok=True)
            self._file = tensorboardX.RecordWriter(str(self._path))
        self._add(file_version="brain.Event:2")
        # TensorBoard hides what earlier files hold from this step on: the crashed run's tail.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start_step + 1, session_log=start)

    def append(self, rows: Iterable[Mapping[str, Any]], prefix: str) -> None:
        for row in rows:
            values = [
                self._summary.Value(tag=_tag(prefix, key), simple_value=value)
                for key, value in row.items()
                if key != "step"
            ]
            self._add(step=row["step"], summary=self._summary(value=values))

    def flush(self) -> None:
        with wrap_os_errors(self._path, "write"):
            self._file.flush()

    def close(self) -> None:
        with wrap_os_errors(self._path, "write"):
            self._file.close()

    def _add(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with wrap_os_errors(self._path, "write"):
            self._file.write(event.SerializeToString())


def _tag(prefix: str, key: str) -> str:
    return f"{prefix}/{key.removeprefix(prefix + '_')}"


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> int | float | str:
    if isinstance(value, str):
        return value
    try:
        return operator.index(value)  # int, NumPy integer, integer array of no dimensions
    except TypeError:
        return float(value)  # NaN and infinity stay what they are


def _read_lines(path: pathlib.Path) -> list[tuple[dict[str, Any], bytes]]:
    """The rows of a JSON-lines file, each with its bytes; without a torn last line."""
    with wrap_os_errors(path, "read"):
        lines = path.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse_row(line)
        if row is not None:
            rows.append((row, line))
        elif number < len(lines):
            raise WorkdirError(
                f"{path}, line {number}, is not a JSON object with a whole number as its step; "
                "only the last line may be torn. Repair or remove the line, or start in another "
                "working directory"
            )
    return rows


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Drops lines of steps after `last_step`; kept lines keep their bytes."""
    if not path.exists():
        return
    kept = [line + b"\n" for row, line in _read_lines(path) if row["step"] <= last_step]
    write_atomically(path, b"".join(kept))


def _warn_of_gap(path: pathlib.Path, start_step: int) -> None:
    """Tells of lines that a run lost which its checkpoint counts on."""
    rows = _read_lines(path) if path.exists() else []
    last = max((row["step"] for row, _ in rows), default=0)
    if last < start_step:
        logging.warning(
            "%s ends at outer step %d, although the run goes on after step %d: the lines between were "
            "lost, and stay missing.",
            *(path, last, start_step),
        )


# --- Progress -------------------------------------------------------------------------------------


class Progress:
    """A progress bar on a terminal; elsewhere a log line now and then. A context manager."""

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        log_every_seconds: float = 30.0,
        stream: TextIO | None = None,
    ) -> None:
        """Draws nothing yet on a stream that is no terminal.

        Args:
            total_steps: outer steps of the whole run.
            start_step: outer steps done by earlier runs.
            log_every_seconds: shortest time between two log lines when there is no terminal.
            stream: where the bar goes and what decides whether there is one; default stderr.
        """
        self._total = total_steps
        self._every = log_every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._bar = _bar(total_steps, start_step, self._stream) if self._stream.isatty() else None
        # Time and step of the last log line; set by the first update, so that the first rate
        # leaves out compilation.
        self._mark: tuple[float, int] | None = None

    def update(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        """Tells where training is.

        Args:
            step: outer steps done in all.
            loss: of the last step.
            accuracy: of the last step, a fraction.
            epoch: counted from 0.
        """
        if self._bar is None:
            self._log(step, loss, accuracy, epoch)
            return
        texts = {"epoch": epoch, "loss": f"{loss:.4f}", "accuracy": f"{100 * accuracy:.1f} %"}
        self._bar.set_postfix(texts, refresh=False)
        self._bar.update(step - self._bar.n)

    def message(self, text: str) -> None:
        """Prints a line above the bar, or logs it where there is none."""
        if self._bar is None:
            logging.info("%s", text)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Leaves the bar as it stands and ends its line; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _log(self, step: int, loss: float, accuracy: float, epoch: int) -> None:
        now = time.monotonic()
        if self._mark is None:
            self._mark = now, step
            return
        seconds, steps = now - self._mark[0], step - self._mark[1]
        if seconds < self._every or steps <= 0:
            return
        self._mark = now, step
        rate = steps / max(seconds, 1e-9)
        left = datetime.timedelta(seconds=round((self._total - step) / rate))
        logging.info(
            "step %d/%d, epoch %d: loss %.4f, accuracy %.1f %%, %.2f steps/s, ETA %s",
            *(step, self._total, epoch, loss, 100 * accuracy, rate, left),
        )


def _bar(total_steps: int, start_step: int, stream: TextIO) -> Any:
    import tqdm

    # A container's terminal may say that its size is 0 by 0; tqdm would then draw nothing.
    known = _has_size(stream)
    return tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        file=stream,
        unit=" steps",
        dynamic_ncols=known,
        ncols=None if known else 100,
        nrows=None if known else 24,
        mininterval=0.5,
        miniters=1,  # a fixed count: otherwise the bar stalls when steps turn slower
    )


def _has_size(terminal: TextIO) -> bool:
    try:
        return 0 not in os.get_terminal_size(terminal.fileno())
    except (AttributeError, OSError, ValueError):
        return False
