import json
import math
import shutil

import numpy as np
import pytest

from mamlpp_jax.artifacts import metric_writer
from mamlpp_jax.errors import WorkdirError
from tests.helpers.full_disk import no_room_beyond


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


def test_tensorboard_shows_the_same_rows_or_is_left_out(tmp_path):
    write_run(tmp_path / "with", 1, 2, tensorboard=True)
    write_run(tmp_path / "without", 1, 2, tensorboard=False)
    assert metrics_bytes(tmp_path / "with") == metrics_bytes(tmp_path / "without")
    (events,) = (tmp_path / "with" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"train/loss") == 2
    names = sorted(path.name for path in (tmp_path / "without").iterdir())
    assert names == ["metrics.jsonl", "timing.jsonl"]


def test_a_full_disk_under_tensorboard_is_an_error_not_a_hang(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0) as writer:
        writer.train([train_row(1)])
        with no_room_beyond(10), pytest.raises(WorkdirError, match=r"cannot write .*tfevents"):
            writer.flush()


def test_the_null_writer_replaces_writer_and_progress(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with metric_writer.NullWriter() as null:
        null.train([train_row(1)])
        null.validation({"step": 1, "val_accuracy": 0.5})
        null.timing({"step": 1, "seconds": 0.5})
        null.flush()
        null.update(1, loss=0.5, accuracy=0.5, epoch=0)
        null.message("done")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_grow_is_named(tmp_path):
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        room = 2 * len(json.dumps(train_row(1))) + 30
        with (
            no_room_beyond(room),
            pytest.raises(WorkdirError, match=r"cannot write .*metrics\.jsonl: File too large"),
        ):
            writer.train([train_row(step) for step in range(1, 10)])
        assert steps(tmp_path) == [1, 2]  # the third line is torn


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


@pytest.mark.parametrize(("start", "warned"), [(0, False), (1, False), (2, False), (3, True)])
def test_missing_lines_before_the_checkpoint_are_reported(tmp_path, log_lines, start, warned):
    with metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False) as writer:
        writer.train([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}])
    with metric_writer.MetricsWriter(tmp_path, start, tensorboard=False):
        pass
    assert any("metrics.jsonl ends at outer step 2" in line for line in log_lines()) == warned


def test_rows_are_on_the_disk_before_close(tmp_path):
    writer = metric_writer.MetricsWriter(tmp_path, 0, tensorboard=False)
    writer.train([train_row(1)])
    assert steps(tmp_path) == [1]
    writer.flush()
    writer.close()
    writer.close()
