"""One writer per working directory."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.locks import one_at_a_time, only_writer

HOLD = (
    "import pathlib, sys, time\n"
    "from mamlpp_jax.utils.locks import only_writer\n"
    "with only_writer(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_learns_who_holds_it(tmp_path, holder):
    host = socket.gethostname()
    expected = f"in use by process {holder.pid} on host {host}"
    with pytest.raises(WorkdirError, match=expected), only_writer(tmp_path):
        pass


def test_a_dead_holder_does_not_block(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_writer(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_it_can_be_taken_again_and_makes_the_folder(tmp_path):
    for _ in range(2):
        with only_writer(tmp_path / "new" / "run"):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkdirError, match=r"make the workdir .*file/run"),
        only_writer(tmp_path / "file" / "run"),
    ):
        pass


def test_where_there_are_no_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with only_writer(tmp_path), one_at_a_time(tmp_path / "other", "reading"):
        pass
    assert [line.split()[0] for line in caplog.messages] == [
        str(tmp_path / name) for name in ("lock", "other")
    ]
    assert all("start one run at a time" in line for line in caplog.messages)
