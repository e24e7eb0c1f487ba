import re

from mamlpp_jax.artifacts.progress import Progress
from tests.helpers.pseudo_terminal import lines


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
    """Seconds, as many as were added."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def logged(clock, stream, steps, seconds_per_step, **options):
    """Reports steps at a steady pace."""
    with Progress(1000, 100, stream=stream, clock=clock, **options) as progress:
        for step in steps:
            clock.now += seconds_per_step
            progress.update(step, loss=0.5, accuracy=0.25, epoch=2, seconds=seconds_per_step)


def test_a_log_file_gets_one_line_per_interval(log_lines):
    stream = Stream(terminal=False)
    logged(Clock(), stream, range(101, 201), 1.0, log_every_seconds=30.0)
    assert stream.text == ""
    logged_lines = log_lines()
    assert [re.search(r"(\d+)/1000", line)[1] for line in logged_lines] == ["130", "160", "190"]
    for part in ("epoch 3", "loss 0.5000", "accuracy 25.0 %", "1.00 steps/s", "ETA 0:14:30"):
        assert part in logged_lines[0]  # 870 steps are left


def test_a_log_file_stays_quiet_within_the_interval(log_lines):
    stream = Stream(terminal=False)
    logged(Clock(), stream, range(101, 130), 1.0)
    assert (stream.text, log_lines()) == ("", [])


def test_the_time_left_leaves_out_compilation_and_counts_validations_to_come(log_lines):
    clock = Clock()
    with Progress(
        1000, 0, log_every_seconds=10.0, stream=Stream(terminal=False), clock=clock
    ) as progress:
        for number, seconds in enumerate((500.0, 10.0, 600.0, 10.0, 10.0), start=1):
            clock.now += seconds
            progress.update(40 * number, 0.5, 0.25, epoch=0, seconds=seconds, later=60.0)
    assert len(log_lines()) == 4  # the first has compilation alone to go by
    assert all("4.00 steps/s" in line for line in log_lines())
    assert "ETA 0:04:50" in log_lines()[0]  # 920 steps, and a minute
    assert "ETA 0:04:20" in log_lines()[-1]


def test_a_terminal_gets_a_bar_and_no_log(log_lines, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Stream(terminal=True)
    with Progress(40, 10, stream=stream) as progress:
        progress.update(20, loss=0.125, accuracy=0.9, epoch=1, seconds=2.0)
        progress.message("validation: [91.8] %")
        progress.update(40, loss=0.0625, accuracy=0.95, epoch=1, seconds=2.0)
    shown = lines(stream.text)
    assert "10/40" in shown[0]  # resumed
    for part in ("40/40", "steps/s", "epoch 2", "loss 0.0625", "accuracy 95.0 %"):
        assert part in shown[-1]
    assert "validation: [91.8] %" in shown  # a line of its own
    assert log_lines() == []


def test_a_message_is_logged_where_there_is_no_terminal(log_lines):
    stream = Stream(terminal=False)
    with Progress(40, 0, stream=stream) as progress:
        progress.message("100 % of it: %s")
    assert (stream.text, log_lines()) == ("", ["100 % of it: %s"])
