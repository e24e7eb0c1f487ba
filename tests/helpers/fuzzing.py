"""How the readers are fuzzed: few cases in every run of the tests, many in the slow ones, always the same."""

import contextlib
import os
import signal
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from mamlpp_jax.errors import MamlppError

FEW, MANY = 40, 2000
_HANGS_AFTER_SECONDS = 120  # hundreds of times what the slowest case takes


def cases(few=FEW):
    """Makes of one test a fast one of few cases and a slow one of many."""
    return pytest.mark.parametrize(
        "count",
        [pytest.param(few, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)],
    )


def fuzz(sandbox, count, strategy, check):
    """Calls `check` with so many values of a strategy, which depend on nothing but the code here.

    Some must be read and some refused, else the values show little.
    """

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case):
        check(case)

    run()
    assert sandbox.read
    assert sandbox.refused


class _HangError(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


@contextlib.contextmanager
def _no_hang():
    def stop(*_):
        raise _HangError(f"the reader took more than {_HANGS_AFTER_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_HANGS_AFTER_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Sandbox:
    """A folder that is the current one and holds what is read; readers may write in `allowed` at most."""

    def __init__(self, root, monkeypatch):
        self.inside = root / "outer" / "inside"
        self.inside.mkdir(parents=True)
        self._root = root
        self.read = self.refused = 0
        # One above, so that names with ".." hit upon something.
        self._sentinel = root / "outer" / "sentinel"
        self._sentinel.write_bytes(b"stays as it is")
        monkeypatch.chdir(self.inside)
        monkeypatch.setenv("TMPDIR", str(root))

    @contextlib.contextmanager
    def reads(self, *named, allowed=None):
        """The block must succeed or raise an error of ours that names `named`, and must write nothing.

        Args:
            named: what the message must contain.
            allowed: a folder in which files may appear, change and vanish.
        """
        before = self._content(allowed)
        with warnings.catch_warnings(), _no_hang():
            warnings.simplefilter("ignore")  # A library's warning is no failure.
            try:
                yield
                self.read += 1
            except MamlppError as error:
                self.refused += 1
                message = str(error)
                assert message.strip()
                assert "\n" not in message.strip(), message
                for name in named:
                    assert str(name) in message
        assert self._content(allowed) == before
        assert self._sentinel.read_bytes() == b"stays as it is"

    def _content(self, allowed):
        content = {}
        for folder, folders, files in os.walk(self._root):
            if allowed is not None and os.path.samefile(folder, allowed):
                folders.clear()
                continue
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                content[path] = (status.st_mode, status.st_mtime_ns if name in files else None)
        return content


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """An empty sandbox; import it where it is used."""
    return Sandbox(tmp_path, monkeypatch)


@st.composite
def damaged(draw, contents, most=4):
    """One of several byte strings, with up to `most` pieces of it changed, lost, doubled or put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        # The structure of a file lies at its ends.
        at = draw(st.sampled_from([at, at, min(at, 63), max(len(content) - 1 - at % 128, 0)]))
        length = draw(st.sampled_from([1, 1, 2, 4, 16, 256]))
        damage = draw(
            st.sampled_from(["flip", "flip", "flip", "cut", "lose", "double", "put", "fill"])
        )
        if damage == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif damage == "cut":
            del content[at:]
        elif damage == "lose":
            del content[at : at + length]
        elif damage == "double":
            content[at:at] = content[at : at + length]
        elif damage == "put":
            content[at:at] = draw(st.binary(max_size=8))
        elif damage == "fill":
            piece = draw(st.sampled_from([b"\0", b"\xff", b"\x7f"]))
            content[at : at + length] = piece * len(content[at : at + length])
    return bytes(content)


NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**308, 10**400, -(10**400)]),
    st.floats(),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text("0123456789eE+-._ infatrue,=:/\\\n\0'\"[](){}", max_size=12),
    st.sampled_from(["maml", "maml++", "maml+msl+da", "batch,support", "9" * 5000, "nan", "../x"]),
    NUMBERS.map(lambda n: repr(n) if isinstance(n, float) else hex(n)),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS | st.sampled_from(["a", "items"]), inner)
    ),
    max_leaves=5,
)


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
