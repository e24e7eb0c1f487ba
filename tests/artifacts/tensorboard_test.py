import struct

import pytest

from mamlpp_jax.artifacts.metric_writer import EventWriter
from mamlpp_jax.errors import WorkdirError


def write(directory, start_step, rows, prefix="train"):
    writer = EventWriter(directory, start_step)
    writer.append(rows, prefix)
    writer.close()


def events(directory):
    """Every event of every file, oldest file first: (step, {tag: value}, is a session start)."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            scalars = {value.tag: value.simple_value for value in event.summary.value}
            start = event.session_log.status == event_pb2.SessionLog.START
            found.append((event.step, scalars, start))
            at += 16 + length
    return found


def test_one_event_holds_the_scalars_of_a_step(tmp_path):
    writer = EventWriter(tmp_path, 0)
    writer.append([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "grad_norm": 1.25}], "train")
    writer.append([{"step": 2, "epoch": 0, "val_accuracy_batch": 0.5}], "val")
    writer.flush()
    assert [(step, scalars) for step, scalars, _ in events(tmp_path) if scalars] == [
        (1, {"train/loss": 0.5}),
        (2, {"train/loss": 0.25, "train/grad_norm": 1.25}),
        (2, {"val/epoch": 0.0, "val/accuracy_batch": 0.5}),
    ]
    writer.close()


def test_what_a_crashed_run_wrote_later_is_hidden(tmp_path):
    write(tmp_path, 0, [{"step": step, "loss": 0.5} for step in range(1, 6)])
    write(tmp_path, 3, [{"step": 4, "loss": 0.5}])  # within the same second
    assert len(list(tmp_path.iterdir())) == 2
    starts = [step for step, _, start in events(tmp_path) if start]
    assert starts == [1, 4]  # TensorBoard drops earlier events of this step and later


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    path = tmp_path / "missing" / "tensorboard"
    with pytest.raises(WorkdirError, match=f"cannot write {path}.*: No such file"):
        EventWriter(path, 0)
