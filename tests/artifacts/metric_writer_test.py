import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import resource
import shutil
import stat
import struct

import numpy as np
import pytest
from absl import logging as absl_logging

from mamlpp_jax.artifacts import metric_writer
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils import files


def train_row(step, loss=0.5):
    return {
        "step": step,
        "epoch": (step - 1) // 2,
        "loss": loss,
        "accuracy": 0.75,
        "learning_rate": 1e-3,
        "grad_norm": 1.25,
    }


def write_run(workdir, first, last, start_step=0, tensorboard=False):
    with metric_writer.MetricsWriter(workdir, start_step, tensorboard) as writer:
        for step in range(first, last + 1):
            writer.train([train_row(step, loss=1 / step)])
            writer.timing({"step": step, "seconds": 0.1})


def metrics_bytes(workdir):
    return (workdir / metric_writer.METRICS_FILE).read_bytes()


def steps(workdir):
    return [row["step"] for row in metric_writer.read_metrics(workdir)]


# --- metrics.jsonl --------------------------------------------------------------------------------


def test_rows_come_back_in_order_with_their_keys_and_values(tmp_path):
    validation = {"step": 2, "epoch": 0, "val_accuracy": 0.9, "val_accuracy_batch": 0.9}
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        writer.train([train_row(1), train_row(2, loss=0.25)])
        writer.validation(validation)
        writer.timing({"step": 2, "seconds": 3.5, "phase": "train"})
    rows = metric_writer.read_metrics(tmp_path)
    assert rows == [train_row(1), train_row(2, loss=0.25), validation]
    assert list(rows[0]) == list(train_row(1))
    timing = (tmp_path / metric_writer.TIMING_FILE).read_text()
    assert json.loads(timing) == {"step": 2, "seconds": 3.5, "phase": "train"}


def test_numpy_numbers_give_the_bytes_of_plain_ones(tmp_path):
    plain, arrays = tmp_path / "plain", tmp_path / "arrays"
    with metric_writer.MetricsWriter(plain, 0, tensorboard=False) as writer:
        writer.train([{"step": 7, "loss": 0.1, "accuracy": 0.5}])
    with metric_writer.MetricsWriter(arrays, 0, tensorboard=False) as writer:
        row = {"step": np.int64(7), "loss": np.array(0.1), "accuracy": np.float32(0.5)}
        writer.train([row])
    assert (
        metrics_bytes(arrays)
        == metrics_bytes(plain)
        == b'{"step": 7, "loss": 0.1, "accuracy": 0.5}\n'
    )


def test_doubles_survive_exactly(tmp_path):
    value = float(np.float32(1) / np.float32(3))
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        writer.train([{"step": 1, "loss": np.float32(value)}])
    assert metric_writer.read_metrics(tmp_path)[0]["loss"] == value


def test_a_diverged_run_shows_its_values(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0) as writer:
        writer.train([train_row(1, loss=math.nan), train_row(2, loss=math.inf)])
    first, second = metric_writer.read_metrics(tmp_path)
    assert math.isnan(first["loss"])
    assert second["loss"] == math.inf
    assert b"null" not in metrics_bytes(tmp_path)


def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write_run(whole, 1, 6)
    write_run(resumed, 1, 5)  # stopped after its last checkpoint, at step 3
    write_run(resumed, 4, 6, start_step=3)
    assert metrics_bytes(resumed) == metrics_bytes(whole)
    timing = (resumed / metric_writer.TIMING_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in timing] == [1, 2, 3, 4, 5, 6]


def test_chunks_do_not_change_the_bytes(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    rows = [train_row(step) for step in range(1, 5)]
    with metric_writer.MetricsWriter(one, 0, tensorboard=False) as writer:
        writer.train(rows)
    with metric_writer.MetricsWriter(many, 0, tensorboard=False) as writer:
        for row in rows:
            writer.train([row])
    assert metrics_bytes(one) == metrics_bytes(many)


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"\x00\x00\x00", b'{"step": 3}garbage', b"7"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    write_run(tmp_path, 1, 2)
    with (tmp_path / metric_writer.METRICS_FILE).open("ab") as file:
        file.write(torn)
    assert steps(tmp_path) == [1, 2]
    write_run(tmp_path, 3, 3, start_step=2)
    write_run(tmp_path / "untouched", 1, 3)
    assert metrics_bytes(tmp_path) == metrics_bytes(tmp_path / "untouched")


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    write_run(tmp_path, 1, 2)
    path = tmp_path / metric_writer.METRICS_FILE
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write_run(tmp_path, 3, 3, start_step=2)
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("damage", ["not json", '{"loss": 1.0}', "[1]", '{"step": "2"}', ""])
def test_other_damage_is_refused_with_file_and_line(tmp_path, damage):
    write_run(tmp_path, 1, 3)
    path = tmp_path / metric_writer.METRICS_FILE
    lines = path.read_text().split("\n")
    lines[1] = damage
    path.write_text("\n".join(lines))
    before = path.read_bytes()
    for read in (
        metric_writer.read_metrics,
        lambda workdir: metric_writer.MetricsWriter(workdir, 1),
    ):
        with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line 2, is not") as caught:
            read(tmp_path)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_missing_metrics_are_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"cannot read .*metrics\.jsonl: No such file"):
        metric_writer.read_metrics(tmp_path)


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(WorkdirError, match=f"cannot create {path}"):
        metric_writer.MetricsWriter(path, 0)


@contextlib.contextmanager
def no_room_beyond(size):
    """No file of this process may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_is_named(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        room = 2 * len(json.dumps(train_row(1))) + 30
        with (
            no_room_beyond(room),
            pytest.raises(WorkdirError, match=r"cannot write .*metrics\.jsonl: File too large"),
        ):
            writer.train([train_row(step) for step in range(1, 10)])
        assert steps(tmp_path) == [1, 2]  # the third line is torn


def test_a_full_disk_under_tensorboard_is_an_error_not_a_hang(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0) as writer:
        writer.train([train_row(1)])
        with no_room_beyond(10), pytest.raises(WorkdirError, match=r"cannot write .*tfevents"):
            writer.flush()


def test_a_folder_that_vanished_is_named_at_the_next_flush(tmp_path):
    """Writing to a removed file succeeds; the run would find out at its end."""
    workdir = tmp_path / "run"
    with metric_writer.MetricsWriter(workdir, 0, tensorboard=False) as writer:
        writer.train([{"step": 1, "loss": 0.5}])
        writer.flush()
        shutil.rmtree(workdir)
        writer.train([{"step": 2, "loss": 0.5}])
        with pytest.raises(WorkdirError, match=r"cannot write .*run/metrics\.jsonl: No such file"):
            writer.flush()
    assert not workdir.exists()


@pytest.mark.parametrize(("start", "told"), [(0, False), (1, False), (2, False), (3, True)])
def test_lines_that_a_checkpoint_counts_on_are_missed(tmp_path, log_lines, start, told):
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        writer.train([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}])
    with metric_writer.MetricsWriter(tmp_path, start, tensorboard=False):
        pass
    assert any("metrics.jsonl ends at outer step 2" in line for line in log_lines()) == told


def test_rows_are_on_the_disk_before_close(tmp_path):
    writer = metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False)
    writer.train([train_row(1)])
    assert steps(tmp_path) == [1]
    writer.flush()
    writer.close()
    writer.close()


# --- TensorBoard ----------------------------------------------------------------------------------


def events(workdir):
    """Every event of every file, oldest file first: (step, {tag: value}, is a session start)."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(
        (workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns
    ):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            scalars = {value.tag: value.simple_value for value in event.summary.value}
            start = event.session_log.status == event_pb2.SessionLog.START
            found.append((event.step, scalars, start))
            at += 16 + length
    return found


def test_tensorboard_gets_train_and_validation_scalars(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0) as writer:
        writer.train([train_row(1), train_row(2, loss=0.25)])
        writer.validation({"step": 2, "epoch": 0, "val_accuracy_batch": 0.5})
        writer.flush()
        scalars = [(step, values) for step, values, _ in events(tmp_path) if values]
    assert [step for step, _ in scalars] == [1, 2, 2]
    assert scalars[1][1]["train/loss"] == 0.25
    assert scalars[1][1]["train/grad_norm"] == 1.25
    assert scalars[2][1] == {"val/epoch": 0.0, "val/accuracy_batch": 0.5}


def test_tensorboard_hides_what_a_crashed_run_wrote_later(tmp_path):
    write_run(tmp_path, 1, 5, tensorboard=True)
    write_run(tmp_path, 4, 4, start_step=3, tensorboard=True)  # within the same second
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    starts = [step for step, _, start in events(tmp_path) if start]
    assert starts == [1, 4]  # TensorBoard drops earlier events of this step and later


def test_tensorboard_can_be_left_out(tmp_path):
    write_run(tmp_path, 1, 1, tensorboard=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "timing.jsonl"]


# --- JSON files -----------------------------------------------------------------------------------


def test_json_keeps_order_and_takes_numpy(tmp_path):
    path = tmp_path / "results.json"
    value = {"b": np.float32(0.5), "a": np.array([1, 2]), "path": pathlib.Path("x"), "text": "±"}
    files.write_json(path, value)
    assert files.read_json(path) == {"b": 0.5, "a": [1, 2], "path": "x", "text": "±"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "b": 0.5,\n  "a"')
    assert text.endswith("}\n")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No space left on device"):
        files.write_json(path, {"new": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert files.read_json(path) == {"old": 1}


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        files.write_json(path, {"new": object()})
    assert files.read_json(path) == {"old": 1}


def test_written_files_have_the_usual_permissions(tmp_path):
    files.write_json(tmp_path / "written.json", 1)
    (tmp_path / "usual").write_text("")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("written.json", "usual")]
    assert mode[0] == mode[1]


def test_writing_into_a_missing_directory_is_named(tmp_path):
    path = tmp_path / "gone" / "results.json"
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No such file or directory"):
        files.write_json(path, {})


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1} x', b"\xff\xfe"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(WorkdirError, match=f"{path} is not readable as JSON"):
        files.read_json(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"cannot read .*config\.json: No such file"):
        files.read_json(tmp_path / "config.json")


# --- Progress -------------------------------------------------------------------------------------


class Stream:
    """Collects what is written, as a terminal or as a file."""

    def __init__(self, terminal):
        self.text = ""
        self._terminal = terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self._terminal


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(metric_writer.time, "monotonic", lambda: self.now)


@pytest.fixture
def log_lines(caplog):
    """Gives the messages logged so far."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    logger = absl_logging.get_absl_logger()
    propagate, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="absl"):
        yield lambda: caplog.messages
    logger.propagate = propagate
    absl_logging.set_verbosity(before)


def test_a_log_file_gets_one_line_per_interval(monkeypatch, log_lines):
    clock, stream = Clock(monkeypatch), Stream(terminal=False)
    with metric_writer.Progress(1000, 100, log_every_seconds=30.0, stream=stream) as progress:
        for step in range(101, 201):  # a second per step
            progress.update(step, loss=0.5, accuracy=0.25, epoch=2)
            clock.now += 1.0
    assert stream.text == ""
    assert log_lines() == [
        f"step {step}/1000, epoch 2: loss 0.5000, accuracy 25.0 %, 1.00 steps/s, ETA {eta}"
        for step, eta in ((131, "0:14:29"), (161, "0:13:59"), (191, "0:13:29"))
    ]


def test_a_log_file_stays_quiet_within_the_interval(monkeypatch, log_lines):
    clock, stream = Clock(monkeypatch), Stream(terminal=False)
    with metric_writer.Progress(1000, 0, stream=stream) as progress:
        for step in range(1, 30):
            progress.update(step, loss=0.5, accuracy=0.25, epoch=0)
            clock.now += 1.0
    assert (stream.text, log_lines()) == ("", [])


def test_the_first_rate_leaves_out_compilation(monkeypatch, log_lines):
    clock = Clock(monkeypatch)
    progress = metric_writer.Progress(
        1000, 0, log_every_seconds=10.0, stream=Stream(terminal=False)
    )
    clock.now += 500.0
    progress.update(10, loss=0.5, accuracy=0.25, epoch=0)
    assert log_lines() == []
    clock.now += 10.0
    progress.update(50, loss=0.5, accuracy=0.25, epoch=0)
    assert "4.00 steps/s, ETA 0:03:58" in log_lines()[0]


def test_a_terminal_gets_a_bar_and_no_log(log_lines):
    stream = Stream(terminal=True)
    with metric_writer.Progress(40, 10, stream=stream) as progress:
        progress.update(20, loss=0.125, accuracy=0.9, epoch=1)
        progress.message("validation: 91.8 %")
        progress.update(40, loss=0.0625, accuracy=0.95, epoch=1)
    assert "10/40" in stream.text  # resumed
    last = stream.text.rstrip("\n").rsplit("\r", 1)[-1]
    assert "40/40" in last
    assert "steps/s" in last
    assert "epoch=1, loss=0.0625, accuracy=95.0 %" in last
    assert "\rvalidation: 91.8 %\n" in stream.text.replace(" " * 5, "").replace("\r\r", "\r")
    assert log_lines() == []


def test_a_message_is_logged_where_there_is_no_terminal(log_lines):
    stream = Stream(terminal=False)
    with metric_writer.Progress(40, 0, stream=stream) as progress:
        progress.message("100 % of it: %s")
    assert (stream.text, log_lines()) == ("", ["100 % of it: %s"])
