"""A pseudo-terminal: what a program shows on it, as it was written and as a person reads it."""

import contextlib
import os
import pty
import re
import select
import time

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class PseudoTerminal:
    """Collects what is written to `stream`."""

    def __init__(self, stream, reader):
        self.stream, self._reader = stream, reader
        self.text = ""

    def read(self, wanted="", seconds=60):
        """Reads what is there by now, until it matches `wanted`, colours aside; returns all so far."""
        deadline = time.monotonic() + seconds
        while self._read_once(0.05) or not re.search(wanted, COLOURS.sub("", self.text)):
            assert time.monotonic() < deadline, f"{wanted!r} did not appear in {self.text!r}"
        return self.text

    def read_all(self, process, seconds):
        """Reads until the process has ended; kills it when that takes longer than allowed."""
        deadline = time.monotonic() + seconds
        while True:
            ended = process.poll() is not None
            if not self._read_once(0.05) and ended:
                return
            if time.monotonic() > deadline:
                process.kill()

    def _read_once(self, wait):
        if not select.select([self._reader], [], [], wait)[0]:
            return ""
        try:
            piece = os.read(self._reader, 65536).decode(errors="replace")
        except OSError:  # nobody has the other end open
            return ""
        self.text += piece
        return piece


@contextlib.contextmanager
def pseudo_terminal():
    reader, writer = pty.openpty()
    try:
        with os.fdopen(writer, "w") as stream:
            yield PseudoTerminal(stream, reader)
    finally:
        os.close(reader)


def lines(text):
    """The lines as they stood one after another, redrawn ones each time, without escapes."""
    parts = re.split(r"[\r\n]+", _ESCAPES.sub("\n", COLOURS.sub("", text)))
    return [part.strip() for part in parts if part.strip()]
