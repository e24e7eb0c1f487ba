"""Whatever a pickle holds, it is read or refused in one paragraph and calls nothing; see `helpers/fuzzing`."""

import importlib
import os
import pathlib
import pickle
import pickletools
import subprocess

import numpy as np
from hypothesis import strategies as st

from mamlpp_jax.data.readers.pickles import load_arrays
from tests.helpers.fuzzing import JSON, Calls, cases, damaged, fuzz, sandbox
from tests.helpers.small_sources import mini_pickles, read_mini_imagenet, shrink_mini_imagenet

__all__ = ["sandbox"]  # a fixture

FORBIDDEN = (
    (os.system, ("touch made",)),
    (eval, ("open('made', 'w')",)),
    (exec, ("open('made', 'w')",)),
    (open, ("made", "w")),
    (os.mkdir, ("made",)),
    (os.unlink, ("../sentinel",)),
    (subprocess.Popen, (["touch", "made"],)),
    (np.save, ("made.npy", 1)),
    (getattr, ("x", "join")),
    (importlib.import_module, ("antigravity",)),
    (pathlib.Path, ("made",)),
)
# Names and arguments from which random programs are put together.
PIECES = st.one_of(
    st.sampled_from(
        [
            b"c%s\n%s\n" % (module, name)
            for module, name in (
                (b"numpy", b"ndarray"),
                (b"numpy", b"dtype"),
                (b"numpy", b"load"),
                (b"numpy.core.multiarray", b"_reconstruct"),
                (b"numpy._core.multiarray", b"scalar"),
                (b"numpy._core.numeric", b"_frombuffer"),
                (b"collections", b"OrderedDict"),
                (b"collections", b"defaultdict"),
                (b"_codecs", b"encode"),
                (b"builtins", b"bytearray"),
                (b"builtins", b"int"),
                (b"builtins", b"eval"),
                (b"os", b"system"),
                (b"posix", b"system"),
            )
        ]
    ),
    st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes if op.arg is None]),
    st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes]),
    st.sampled_from(
        [
            b"K\x00",
            b"K\x03",
            b"K\x03\x85",
            b"M\xff\xff",
            b"(",
            b"R",
            b"b",
            b"\x81",
            b"h\x00",
            b"q\x00",
        ]
    ),
    st.sampled_from(
        [
            b"X\x02\0\0\0u1",
            b"X\x01\0\0\0O",
            b"X\x06\0\0\0latin1",
            b"C\x03abc",
            b"\x8a\x05\0\0\0\0\1",
        ]
    ),
    st.binary(max_size=4),
)


@cases()
def test_pickles(count, sandbox):
    path = sandbox.inside / "x.pkl"
    value = {
        "image_data": np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3),
        "class_dict": {b"a": [0], "b": np.array([1])},
        "more": [
            1.5,
            None,
            True,
            (b"bytes", bytearray(b"x")),
            {1, 2},
            np.float64(3),
            np.array(["s", 2], object),
        ],
    }
    sound = [pickle.dumps(value, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    calls = [
        pickle.dumps([value, Calls(*call)], protocol)
        for call in FORBIDDEN
        for protocol in (0, 2, 4)
    ]
    programs = st.lists(PIECES, max_size=12).map(
        lambda pieces: b"\x80\x02" + b"".join(pieces) + b"."
    )

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path):
            load_arrays(path)

    fuzz(
        sandbox, count, st.one_of(damaged(sound), damaged(calls, most=2), programs, programs), check
    )


@cases()
def test_mini_imagenet_of_pickles(count, sandbox, monkeypatch):
    shrink_mini_imagenet(monkeypatch)
    folder = mini_pickles(sandbox.inside / "mini")
    path = folder / "mini-imagenet-cache-val.pkl"
    sound = path.read_bytes()
    pixels = np.zeros((12, 4, 4, 3), np.uint8)
    arrays = st.sampled_from(
        [
            pixels,
            pixels[:0],
            pixels[:, :0],
            pixels[..., :1],
            pixels.astype(float),
            pixels.astype(object),
            [1],
            "x",
        ]
    )
    leaves = st.one_of(
        JSON, arrays, st.binary(max_size=4), st.lists(st.integers(0, 12), max_size=7)
    )
    halves = {"a": list(range(6)), b"b": np.arange(6, 12)}
    rows = st.one_of(
        leaves, st.just(halves), st.dictionaries(st.text(max_size=2), leaves, max_size=3)
    )
    values = st.one_of(
        st.fixed_dictionaries({"image_data": arrays, "class_dict": rows}),
        st.fixed_dictionaries({b"image_data": st.just(pixels), b"class_dict": rows}),
        st.dictionaries(
            st.sampled_from(["image_data", "class_dict", "x", b"y"]), leaves, max_size=3
        ),
        leaves,
    ).map(pickle.dumps)

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(folder):
            read_mini_imagenet(folder)

    fuzz(sandbox, count, damaged([sound]) | values, check)
