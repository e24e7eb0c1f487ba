"""Checks that bad input is refused early: one paragraph, nothing compiled, nothing written."""

import contextlib
import re

import jax
import pytest

from mamlpp_jax.errors import MamlppError

_compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _compilations.append(event) if "backend_compile" in event else None
)


def compilations():
    """How many computations this process has compiled so far."""
    return len(_compilations)


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def refused(folder, *parts):
    """The block must raise an error of ours with all of `parts` in its one paragraph.

    Nothing may be compiled meanwhile, nor anything below `folder` be written.
    """
    before, compiled = (_content(folder), set(folder.rglob("*"))), compilations()
    with pytest.raises(MamlppError) as caught:
        yield
    message = str(caught.value)
    for part in parts:
        assert re.search(part, message), message
    assert "\n" not in message.strip()
    assert compilations() == compiled
    assert (_content(folder), set(folder.rglob("*"))) == before
