"""Output on a terminal while a program works: bars, and the phases of a run with a running clock."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from absl import logging

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")
_PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def phase(text: str, stream: TextIO | None = None) -> Iterator[None]:
    """Announces a part of a run before it starts, and at its end how long it took.

    On a terminal (by default stderr) its line has a running clock, below any bar; elsewhere beginning and end are log
    lines. Nothing is shown where the log leaves out information: in a program that uses this package, and in every
    process of a run but the first.
    """
    stream = sys.stderr if stream is None else stream
    if not logging.level_info():
        yield
        return
    started = time.monotonic()
    if not can_redraw(stream):
        logging.info("%s ...", text)
        yield
        logging.info("%s: %.1f s", text, time.monotonic() - started)
        return
    from rich.progress import TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description} ...", markup=False), TimeElapsedColumn()
    with live_display(stream, *columns, transient=True) as display:
        display.add_task(text, total=None)
        yield
    display.console.print(f"{text}: {time.monotonic() - started:.1f} s")


def can_redraw(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal whose lines can be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def live_display(stream: TextIO, *columns: ProgressColumn, **options: Any) -> Progress:
    """A context manager that keeps lines of these columns at the foot of a terminal, below those of an outer one."""
    import rich.progress

    return rich.progress.Progress(
        *columns,
        console=_console(stream),
        refresh_per_second=2,
        redirect_stdout=False,  # It may be a file.
        redirect_stderr=False,
        **options,
    )


def log_above_displays() -> None:
    """Writes log lines above the live displays of a terminal instead of into them; for the start of a program."""
    if can_redraw(sys.stderr):
        from rich.file_proxy import FileProxy

        stream = FileProxy(_console(sys.stderr), sys.stderr)
        logging.get_absl_handler().python_handler.setStream(stream)


@functools.lru_cache(maxsize=1)
def _console(stream: TextIO) -> Console:
    """The one console of a terminal, through which its displays know of one another."""
    import rich.console

    class VisibleCursor(rich.console.Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # A process that is killed would leave it hidden.

    # Text is shown as it is, and its lines are left to the terminal.
    return VisibleCursor(
        file=stream,
        force_terminal=True,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )


def tracked(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Yields the items, on a terminal above a bar from the moment when they have taken `_PATIENCE_SECONDS`.

    Args:
        items: of a loop.
        total: their number.
        text: what the loop does, such as "predicting".
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        display: Progress | None = None
        for done, item in enumerate(items):
            late = time.monotonic() - started > _PATIENCE_SECONDS
            if display is None and late and can_redraw(sys.stderr):
                from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

                columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
                display = stack.enter_context(live_display(sys.stderr, *columns, transient=True))
                display.add_task(text, total=total)
            if display is not None:
                display.update(display.task_ids[0], completed=done)
            yield item
