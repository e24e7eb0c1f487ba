"""Scalars as TensorBoard events."""

from __future__ import annotations

import pathlib
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mamlpp_jax.utils.files import wrap_os_errors


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
