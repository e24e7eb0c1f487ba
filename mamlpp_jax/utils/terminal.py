"""What a terminal shows while a program works: bars, and the parts of a run with a running clock."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from absl import logging

_REFRESH_SECONDS = 1.0


@contextlib.contextmanager
def phase(text: str, stream: TextIO | None = None) -> Iterator[None]:
    """Announces a part of a run before it starts, and at its end how long it took.

    On a terminal its line has a running clock, below any bar; elsewhere beginning and end are log lines. Nothing is
    shown where the log leaves out information: in a program that uses this package, and in every process of a run
    but the first.

    Args:
        text: what begins, such as "making the data set".
        stream: where a terminal is looked for; default stderr.
    """
    stream = sys.stderr if stream is None else stream
    if not logging.level_info():
        yield
        return
    started = time.monotonic()
    if not stream.isatty():
        logging.info("%s ...", text)
        yield
        logging.info("%s: %.1f s", text, time.monotonic() - started)
        return
    with terminal_bar(stream, leave=False, desc=text, bar_format="{desc} ... {elapsed}") as bar:
        yield
    bar.write(f"{text}: {time.monotonic() - started:.1f} s", file=stream)


@contextlib.contextmanager
def terminal_bar(stream: TextIO, **options: Any) -> Iterator[Any]:
    """A `tqdm.tqdm` that is redrawn every second, so that its clock runs, and closed at the end.

    Args:
        stream: a terminal.
        **options: of `tqdm.tqdm`.
    """
    import tqdm

    # A container's terminal may report a size of 0 by 0; tqdm would then draw nothing.
    known = _has_size(stream)
    bar = tqdm.tqdm(
        file=stream,
        dynamic_ncols=known,
        ncols=None if known else 100,
        nrows=None if known else 24,
        **options,
    )
    stopped = threading.Event()

    def redraw() -> None:
        while not stopped.wait(_REFRESH_SECONDS):
            bar.refresh()

    clock = threading.Thread(target=redraw, daemon=True)
    clock.start()
    try:
        yield bar
    finally:
        stopped.set()
        clock.join()
        bar.close()


def _has_size(terminal: TextIO) -> bool:
    try:
        return 0 not in os.get_terminal_size(terminal.fileno())
    except (AttributeError, OSError, ValueError):
        return False


def log_above_bars() -> None:
    """Writes log lines above the bars of a terminal instead of into them; for the start of a program."""
    if sys.stderr.isatty():
        logging.get_absl_handler().python_handler.setStream(_AboveBars(sys.stderr))


class _AboveBars:
    """A terminal whose bars make room for what is written to it."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def write(self, text: str) -> None:
        import tqdm

        tqdm.tqdm.write(text, file=self._terminal, end="")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)
