"""Parts of a run announce themselves, with a running clock on a terminal and with log lines elsewhere."""

import io
import re
import time

import pytest
from absl import logging

from mamlpp_jax.artifacts.progress import Progress
from mamlpp_jax.utils import terminal
from mamlpp_jax.utils.terminal import log_above_displays, phase
from tests.helpers.pseudo_terminal import COLOURS, lines, pseudo_terminal


@pytest.fixture
def verbosity():
    """Log lines of information are wanted, as in the commands."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)


@pytest.fixture
def tty(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with pseudo_terminal() as opened:
        yield opened


@pytest.mark.usefixtures("verbosity")
def test_a_phase_is_announced_before_it_starts_and_its_clock_runs(tty):
    with phase("compiling", tty.stream):
        tty.read("compiling ... 0:00:00")
        tty.read("compiling ... 0:00:0[1-9]")
        assert "compiling: " not in tty.text
    assert lines(tty.read("compiling: "))[-1].endswith(" s")


@pytest.mark.usefixtures("verbosity")
def test_a_phase_stands_below_the_bar_which_is_there_from_the_start(tty):
    with Progress(40, 0, stream=tty.stream) as progress:
        tty.read("0/40")
        with phase("compiling", tty.stream):
            tty.read("0:00:0[1-9] ETA")  # the bar's clock runs too
        progress.update(40, loss=0.5, accuracy=0.9, epoch=0, seconds=1.0)
    shown = lines(tty.read("40/40"))
    order = [next(i for i, line in enumerate(shown) if part in line) for part in PARTS]
    assert order == sorted(order)


PARTS = ("0/40", "compiling ... 0:00:0", "compiling: ", "40/40")


@pytest.mark.usefixtures("verbosity")
def test_a_phase_that_fails_says_nothing_more(tty):
    with pytest.raises(KeyError), phase("reading", tty.stream):
        raise KeyError
    assert "reading: " not in tty.read("reading")


@pytest.mark.usefixtures("verbosity")
def test_elsewhere_beginning_share_and_end_are_log_lines(caplog, monkeypatch):
    monkeypatch.setattr(terminal, "_EVERY", 0.0)
    with phase("reading 100 %", io.StringIO()) as report:
        time.sleep(0.6)
        assert caplog.messages == ["reading 100 % ..."]
        report(0.42)
    assert caplog.messages[1] == "reading 100 %: 42 %"
    assert re.fullmatch(r"reading 100 %: \d+\.\d s", caplog.messages[2])


@pytest.mark.usefixtures("verbosity")
def test_a_phase_of_no_time_is_not_announced(tty, caplog):
    for stream in (io.StringIO(), tty.stream):
        with phase("looking", stream):
            pass
    assert caplog.messages == []
    assert "looking: " not in tty.read("looking ...")


@pytest.mark.usefixtures("verbosity")
def test_a_terminal_shows_how_far_a_phase_is(tty):
    with phase("testing", tty.stream) as report:
        report(0.42)
        tty.read("testing, 42 % ... 0:00:0")


@pytest.mark.usefixtures("verbosity")
@pytest.mark.parametrize(
    ("variable", "value", "on_terminal"),
    [
        ("TERM", "dumb", True),
        ("TERM", "dumb", False),
        ("NO_COLOR", "1", False),
        ("FORCE_COLOR", "1", False),
    ],
)
def test_log_lines_are_the_same_whatever_the_environment(
    tty, caplog, monkeypatch, variable, value, on_terminal
):
    monkeypatch.setenv(variable, value)
    stream = tty.stream if on_terminal else io.StringIO()
    monkeypatch.setattr(terminal, "_SHORT", 0.0)
    with phase("reading", stream), Progress(40, 0, stream=stream) as progress:
        progress.message("epoch 1 of 2: [91.8] %")
    assert "epoch 1 of 2: [91.8] %" in caplog.messages
    assert caplog.messages[-1] == "reading: 0.0 s"
    assert tty.read() == ""
    assert on_terminal or stream.getvalue() == ""


@pytest.mark.usefixtures("verbosity")
def test_no_color_leaves_the_colours_out(tty, monkeypatch):
    monkeypatch.setattr(terminal, "_SHORT", 0.0)
    monkeypatch.setenv("NO_COLOR", "1")
    with phase("reading", tty.stream), Progress(40, 20, stream=tty.stream):
        tty.read("20/40")
    assert not COLOURS.search(tty.read("reading: "))


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_program_that_uses_the_package_sees_no_phases(tty, caplog, on_terminal):
    stream = tty.stream if on_terminal else io.StringIO()
    with phase("reading", stream):
        pass
    tty.stream.write("end")
    tty.stream.flush()
    assert tty.read("end") == "end"
    assert caplog.messages == []


@pytest.mark.usefixtures("verbosity")
def test_log_lines_are_written_above_the_clock(tty, monkeypatch):
    handler = logging.get_absl_handler().python_handler
    before = handler.stream
    monkeypatch.setattr(terminal.sys, "stderr", tty.stream)
    try:
        log_above_displays()
        with phase("compiling", tty.stream):
            tty.read("compiling ... 0:00:00")
            handler.stream.write("a log line\n")
            shown = lines(tty.read("a log line"))
    finally:
        handler.setStream(before)
    assert "a log line" in shown  # a line of its own
