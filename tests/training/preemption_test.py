"""Leaving early: signals and the time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training import preemption
from mamlpp_jax.training.preemption import PreemptionHandler, StoppedError, leaving_at_once


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: clock[0] is now, in seconds."""
    now = [0.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    return now


def test_no_limit_and_no_signal_go_on(clock):
    handler = PreemptionHandler()
    clock[0] = 1e9
    assert handler.reason() == ""
    handler.check()


def test_the_limit_leaves_time_for_another_round(clock):
    handler = PreemptionHandler(max_minutes=1)
    answers = []
    for second in (0, 10, 20, 45, 55):
        clock[0] = second
        answers.append(bool(handler.reason()))
    # After 45 s the longest wait was 25 s: another would end after the minute.
    assert answers == [False, False, False, True, True]
    with pytest.raises(StoppedError, match="max_minutes=1 is used up"):
        handler.check()


def test_before_there_is_anything_to_save_only_a_signal_stops(clock):
    """Else a run whose preparation takes longer than its limit would never get anywhere."""
    with PreemptionHandler(max_minutes=1).listening() as handler:
        clock[0] = 100
        handler.check_signal()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError, match="received SIGTERM; the run goes on"):
            handler.check_signal()


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch):
    handler = PreemptionHandler(max_minutes=1)
    monkeypatch.setattr(preemption.time, "time", lambda: 1e12)
    assert handler.reason() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    before = signal.getsignal(number)
    with PreemptionHandler().listening() as handler:
        assert handler.reason() == ""
        os.kill(os.getpid(), number)
        assert handler.reason() == f"received {signal.Signals(number).name}"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(minutes):
    with pytest.raises(ConfigError, match="--max_minutes is "):
        PreemptionHandler(minutes)


@contextlib.contextmanager
def stuck(imported, listening):
    """A process that is stuck outside Python, as in a long compilation; a Python handler would not run there."""
    code = (
        "import ctypes\n"
        f"from mamlpp_jax.training.preemption import {imported}\n"
        "mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)\n"
        f"with {listening}:\n"
        "    libc.pthread_mutex_lock(mutex)\n"
        "    print('stuck', flush=True)\n"
        "    libc.pthread_mutex_lock(mutex)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "stuck\n"
            yield process
        finally:
            process.kill()


def test_a_second_signal_ends_a_process_that_is_stuck_outside_python():
    with stuck("PreemptionHandler", "PreemptionHandler().listening()") as process:
        process.send_signal(signal.SIGTERM)
        for line in process.stderr:
            if "received SIGTERM" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT


def test_ctrl_c_ends_a_command_that_has_nothing_to_save_while_it_computes():
    with stuck("leaving_at_once", "leaving_at_once()") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
        assert process.stderr.read() == "\nstopped: interrupted\n"


@pytest.mark.parametrize(
    "block",
    [
        "interrupt()\n    while True: pass",  # where Python's own handler would raise an exception
        "interrupt()",  # in the last moment
        "signal.set_wakeup_fd(-1); interrupt(); time.sleep(60)",  # in the first
    ],
)
def test_ctrl_c_ends_python_code_and_is_not_lost_at_either_end(block):
    code = (
        "import signal, time\n"
        "from mamlpp_jax.training.preemption import leaving_at_once\n"
        "def interrupt(): signal.raise_signal(signal.SIGINT)\n"
        f"with leaving_at_once():\n    {block}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "\nstopped: interrupted\n")


def test_ctrl_c_ends_a_command_whose_messages_nobody_reads():
    with stuck("leaving_at_once", "leaving_at_once()") as process:
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT


@pytest.mark.parametrize("context", [leaving_at_once, PreemptionHandler().listening])
def test_afterwards_signals_are_handled_as_before(context):
    numbers = signal.SIGINT, signal.SIGTERM
    before, threads = [signal.getsignal(number) for number in numbers], threading.active_count()
    with context():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        assert threading.active_count() == threads + 1
    assert [signal.getsignal(number) for number in numbers] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_other_threads_leave_signals_alone():
    seen = []

    def run():
        with leaving_at_once():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_handlers_can_be_installed_again():
    for _ in range(2):
        with PreemptionHandler().listening() as handler:
            os.kill(os.getpid(), signal.SIGINT)
            assert handler.reason() == "received SIGINT"
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_signal_leaves_at_once():
    code = (
        "import os, signal, time\n"
        "from mamlpp_jax.training.preemption import PreemptionHandler\n"
        "with PreemptionHandler().listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == "still here\n"
    assert "finishing the current dispatch and saving" in done.stderr
