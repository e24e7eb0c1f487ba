"""Pickles of arrays are read; anything else in them is neither imported nor called."""

import codecs
import collections
import os
import pickle
import pickletools

import numpy as np
import pytest

from mamlpp_jax.data.readers.pickles import load_arrays
from mamlpp_jax.errors import DataError


def write(tmp_path, value, protocol=2):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_in_plain_containers(tmp_path, protocol):
    value = {
        "image_data": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
        "class_dict": collections.OrderedDict(a=[0], b=[np.int64(1)]),
        "more": collections.defaultdict(list, x=[{1, 2}, (b"bytes", 1.5, None, True)]),
    }
    read = load_arrays(write(tmp_path, value, protocol))
    np.testing.assert_array_equal(read["image_data"], value["image_data"])
    assert read["class_dict"] == value["class_dict"]
    assert read["more"] == value["more"]


def test_numpy_before_and_after_its_core_was_renamed(tmp_path):
    path = write(tmp_path, np.arange(3))
    assert b"numpy._core.multiarray" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(load_arrays(path), np.arange(3))


class _Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {marker}",)),
        (eval, ("open('{marker}', 'w')",)),
        (getattr, ("x", "join")),
        (np.load, ("{marker}",)),
        (codecs.encode, (b"x", "bz2")),
        (pickle.loads, (b"N.",)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_forbidden_object_is_refused_before_it_acts(tmp_path, function, arguments, protocol):
    marker = tmp_path / "marker"
    arguments = [a.format(marker=marker) if isinstance(a, str) else a for a in arguments]
    path = write(tmp_path, {"image_data": _Calls(function, *arguments)}, protocol)
    with pytest.raises(DataError, match=r"x\.pkl asks for .*only NumPy arrays"):
        load_arrays(path)
    assert not marker.exists()


def test_a_name_behind_an_allowed_one_is_refused(tmp_path):
    # Protocol 4 may ask for "ndarray.tofile" of the module numpy.
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    pickletools.dis(path.read_bytes(), out=open(os.devnull, "w"))  # noqa: SIM115
    with pytest.raises(DataError, match=r"asks for numpy\.ndarray\.tofile"):
        load_arrays(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", b"\x80\x02}q\x00(X\x05"])
def test_a_broken_pickle_is_named(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pkl is truncated or broken"):
        load_arrays(path)
    with pytest.raises(DataError, match=r"none\.pkl does not exist"):
        load_arrays(tmp_path / "none.pkl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02Nr\xff\xff\xff\xff.", "truncated or broken .*at memo index 4294967295"),
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\2\x85R.", "bytearray of a mere size"),
    ],
)
def test_a_few_bytes_that_ask_for_gigabytes_are_refused(tmp_path, content, said):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_arrays(path)


class _Made:
    """Pickled, it is what a constructor makes, with a state of its own choice."""

    def __init__(self, function, arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


_POINTERS = _Made(np.dtype, ("u1", False, True), (3, "|", None, None, None, -1, -1, 63))
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_START = (np.ndarray, (0,), b"b")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (_Made(_RECONSTRUCT, _START, (1, (9,), np.dtype("O"), False, [0])), "1 objects for an arr"),
        (_Made(_RECONSTRUCT, _START, (1, (8,), _POINTERS, False, b"8" * 8)), "describes a uint8"),
        (_Made(np.ndarray, ((1,), np.dtype("O"), b"8" * 8)), "not callable"),
    ],
)
def test_arrays_that_would_crash_numpy_are_refused(tmp_path, value, said):
    with pytest.raises(DataError, match=rf"x\.pkl is truncated or broken.*{said}"):
        load_arrays(write(tmp_path, value))


@pytest.mark.parametrize("dtype", [">i4", "<U3", "S2", "?", "f2", "O"])
def test_arrays_of_any_plain_dtype_are_read(tmp_path, dtype):
    array = np.array([0, 1], dtype)
    read = load_arrays(write(tmp_path, array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")
