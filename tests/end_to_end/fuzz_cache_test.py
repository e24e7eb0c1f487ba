"""Whatever a cached data set holds, it is read or made again; see `helpers/fuzzing`."""

import io
import os
import struct
import zipfile

import numpy as np
from hypothesis import strategies as st

from mamlpp_jax.data import dataset as dataset_lib
from tests.helpers.fuzzing import COMPRESSIONS, Calls, cases, damaged, fuzz, sandbox

__all__ = ["sandbox"]  # a fixture


def _npy(header, content, version=1):
    text = header.encode("latin1", "replace")
    length = struct.pack("<H" if version == 1 else "<I", len(text) % 2**16)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + content


@st.composite
def npzs(draw, sound):
    """An archive of sound checksums some of whose arrays claim anything."""
    descr = st.sampled_from(
        [
            "'|u1'",
            "'<i4'",
            "'<U7'",
            "'|O'",
            "'<f8'",
            "'<U0'",
            "'x'",
            "[('a', '<i4')]",
            "'<U999999999'",
        ]
    )
    shape = st.sampled_from(
        [
            (),
            (0,),
            (4,),
            (4, 2, 2, 1),
            (0, 2, 2, 1),
            (2, 2),
            (2**20,) * 4,
            (2**62, 1),
            (-1,),
            (2**70,),
            "x",
            (1.5,),
        ]
    )
    text = st.one_of(
        st.builds("{{'descr': {}, 'fortran_order': False, 'shape': {}, }}\n".format, descr, shape),
        st.text(max_size=20),
        st.sampled_from(
            ["(" * 9000, "{'descr': " * 300, "9" * 5000, "{" + "-" * 9000 + "1}", "\0"]
        ),
    )
    made = st.builds(_npy, text, st.binary(max_size=64), st.sampled_from([1, 1, 2, 3, 9]))
    small = st.sampled_from(
        [
            np.zeros((4, 2, 2, 1), np.uint8),
            np.array([4], np.int32),
            np.array(["a"]),
            np.array([1, 3]),
            np.array([["a"]]),
        ]
    ).map(_array_bytes)
    members = dict(sound)
    for name in draw(st.lists(st.sampled_from(sorted(members)), max_size=3)):
        members.pop(name, None)
        if draw(st.integers(0, 4)):
            members[name] = draw(
                st.one_of(made, made, small, damaged([sound[name]]), st.binary(max_size=20))
            )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from(COMPRESSIONS))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _array_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@cases()
def test_prepared_data_sets(count, sandbox):
    path = sandbox.inside / "set.npz"
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    made = dataset_lib.Dataset(
        "x", pixels, ("a", "b"), np.array([1, 3], np.int32), ("train", "val")
    )
    dataset_lib.save(made, path)
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = io.BytesIO()
    np.savez(pickled, images=np.array([Calls(os.mkdir, ("made",))], object))

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path):
            read = dataset_lib.load(path)
            assert isinstance(read.name, str)
            assert all(isinstance(name, str) for name in (*read.class_names, *read.class_splits))
            assert len(read.images) == read.class_sizes.sum()

    fuzz(
        sandbox,
        count,
        st.one_of(damaged([sound, pickled.getvalue()]), npzs(members), npzs(members)),
        check,
    )
