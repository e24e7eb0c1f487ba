"""Whatever a reader is given, it succeeds or raises an error of ours: no traceback, no hang, nothing written."""

import contextlib
import copy
import importlib
import io
import json
import os
import pathlib
import pickle
import pickletools
import shutil
import struct
import subprocess
import types
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import strategies as st
from ml_collections import config_flags
from PIL import Image

from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts import workdir
from mamlpp_jax.cli import commands, flags as cli_flags
from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.readers import images
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.pickles import load_arrays
from mamlpp_jax.data.sources import mini_imagenet_files, omniglot
from mamlpp_jax.data.splits import read_split_file
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.types import MetaState
from tests.helpers.fuzzing import cases, damaged, fuzz, sandbox
from tests.helpers.small_runs import patterns
from tests.helpers.small_sources import mini_pickles, mini_zips, shrink_mini_imagenet

__all__ = ["sandbox"]  # a fixture

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FIELDS = dict(config_lib.flatten(config_lib.default_config()))

# ---- the configuration ----

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


def use(config):
    """What is done first with a configuration that was found valid."""
    config_lib.validate(config)
    config_lib.config_hash(config)
    config_lib.data_label(config)
    workdir.default_workdir(config)
    json.dumps(config.to_dict())
    assert {type(value) for _, value in config_lib.flatten(config)} <= {bool, int, float, str}


@cases()
def test_arguments_of_configuration_files(count, sandbox):
    names = st.sampled_from(["way", "shot", "query", "steps", "method", "seed", "sede", ""])
    pairs = st.lists(st.tuples(names, TEXTS).map("=".join), max_size=4).map(",".join)
    files = st.sampled_from(sorted(path.stem for path in CONFIGS.glob("[a-z]*.py")))

    def check(case):
        name, argument = case
        with sandbox.reads():
            use(importlib.import_module(f"configs.{name}").get_config(argument))

    fuzz(sandbox, count, st.tuples(files, st.one_of(st.none(), TEXTS, pairs)), check)


@cases()
def test_overrides_on_the_command_line(count, sandbox, monkeypatch):
    names = st.one_of(
        st.sampled_from(sorted(FIELDS)),
        st.sampled_from(sorted(FIELDS)),
        st.sampled_from(["data", "train.epochs.x", "items", "__class__", "train.", ".", "a.b"]),
        st.text(max_size=6).filter(lambda text: "flagfile" not in text),
    )
    forms = st.sampled_from(["--config.{}={}", "--config.{}={}", "-config.{}={}", "--noconfig.{}"])
    overrides = st.lists(
        st.builds(lambda form, name, text: form.format(name, text), forms, names, TEXTS), max_size=3
    )
    ends = st.sampled_from([[], [], [], ["more"], ["--config.seed"], ["--"], ["--config"]])

    def check(argv):
        argv = ["main", f"--config={CONFIGS / 'quickstart.py'}", *argv]
        values = flags.FlagValues()
        monkeypatch.setattr(
            cli_flags, "flags", types.SimpleNamespace(FLAGS=values, Error=flags.Error)
        )
        holder = config_flags.DEFINE_config_file(
            "config", None, "", flag_values=values, sys_argv=argv
        )
        said = io.StringIO()
        with sandbox.reads(), contextlib.redirect_stderr(said):
            left = None
            try:
                cli_flags.parse_flags(argv, [holder])
                use(commands.resolve_config("train", holder.value, None, commands.Overrides()))
            except SystemExit as caught:
                left = caught
        if left is not None:
            assert left.code == cli_flags.USAGE_EXIT_CODE
            assert said.getvalue().startswith("error: ")
            assert "Traceback" not in said.getvalue()
            assert said.getvalue().count("\n") == 1

    fuzz(sandbox, count, st.builds(lambda a, b: a + b, overrides, ends), check)


def with_changes(changes):
    """The default configuration with some values replaced, some fields removed, some put in."""
    stored = config_lib.default_config().to_dict()
    for action, name, value in changes:
        *parents, last = name.split(".")
        place = stored
        for parent in parents:
            place = place.get(parent)
            if not isinstance(place, dict):
                break
        else:
            if action == "remove":
                place.pop(last, None)
            else:
                place[last] = value
    return stored


STORED = st.one_of(
    JSON,
    st.lists(
        st.tuples(
            st.sampled_from(["set", "set", "set", "remove"]),
            st.one_of(
                st.sampled_from(sorted(FIELDS)),
                st.sampled_from(
                    ["data", "train", "items", "data.values", "_fields", "is_locked", "x"]
                ),
                TEXTS,
            ),
            JSON,
        ),
        max_size=3,
    ).map(with_changes),
)


@cases()
def test_stored_configurations(count, sandbox):
    path = sandbox.inside / workdir.CONFIG_FILE
    ours = config_lib.default_config()

    def check(stored):
        path.write_text(json.dumps(stored))
        with sandbox.reads(path):
            use(workdir.read_config(sandbox.inside))
        with sandbox.reads(sandbox.inside):
            workdir.check_owner(sandbox.inside, ours)
        if isinstance(stored, dict):
            before = copy.deepcopy(stored)
            with sandbox.reads():
                use(config_lib.from_dict(stored))
            assert repr(stored) == repr(before)

    fuzz(sandbox, count, STORED, check)


@cases()
def test_files_of_stored_configurations(count, sandbox):
    path = sandbox.inside / workdir.CONFIG_FILE
    sound = json.dumps(config_lib.default_config().to_dict(), indent=2).encode()
    deep = [b"[" * 10_000, *(b'{"a":' * n + b"1" + b"}" * n for n in (4000, 900))]
    contents = st.one_of(
        damaged([sound]), damaged([sound]), st.binary(max_size=40), st.sampled_from(deep)
    )

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path):
            use(workdir.read_config(sandbox.inside))
        with sandbox.reads(sandbox.inside):
            workdir.check_owner(sandbox.inside, config_lib.default_config())

    fuzz(sandbox, count, contents, check)


# ---- archives ----

MEMBER_NAMES = st.one_of(
    st.sampled_from(
        [
            "images/a.png",
            "images_background/Latin/character01/0001_01.png",
            "../../sentinel",
            "../sentinel",
            "/etc/hostname",
            "C:\\x.png",
            "..\\sentinel",
            "images/../../sentinel",
            "images/",
            ".",
            "..",
            "a\0b.png",
            "\udcff.png".encode("utf-8", "surrogateescape").decode("latin1"),
            "__MACOSX/images/._a.png",
            "a" * 3000 + ".png",
        ]
    ),
    st.text(min_size=1, max_size=8),
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
SYMLINK = 0o120777 << 16


@st.composite
def archives(draw):
    """A zip archive of odd members, sound or damaged."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = draw(st.sampled_from([b"", b"", b"x" * 200]))
        for name in draw(st.lists(MEMBER_NAMES, max_size=4)):
            with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
                member = zipfile.ZipInfo(name)
                member.external_attr = draw(st.sampled_from([0, 0o644 << 16, SYMLINK, 0x10]))
                member.compress_type = draw(st.sampled_from(METHODS))
                name.encode()
                content = draw(
                    st.one_of(
                        st.binary(max_size=60),
                        st.sampled_from([b"", b"/etc/passwd", bytes(2**20)]),
                    )
                )
                if member.compress_type == zipfile.ZIP_STORED:
                    content = content[:64]
                archive.writestr(member, content)
    return draw(damaged([file.getvalue()], most=draw(st.sampled_from([0, 1, 3]))))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@cases()
def test_archives(count, sandbox):
    path = sandbox.inside / "a.zip"

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path), open_zip(path) as archive:
            for name in archive.namelist():
                with sandbox.reads(path):
                    read_member(archive, name)
        with sandbox.reads(path):
            list(omniglot.archive_drawings(path, 1))

    fuzz(sandbox, count, archives() | st.binary(max_size=80), check)


def read_layout(folder):
    """All of a mini-ImageNet folder."""
    layout = mini_imagenet_files.find_layout(folder)
    for split in mini_imagenet_files.CLASSES:
        for _, loaders in layout.read(split):
            for loader in loaders:
                loader()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@cases()
def test_mini_imagenet_of_archives_and_lists(count, sandbox, monkeypatch):
    shrink_mini_imagenet(monkeypatch)
    folder = mini_zips(sandbox.inside / "mini")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def check(case):
        name, content = case
        (folder / name).write_bytes(content)
        with sandbox.reads(folder):
            read_layout(folder)
        (folder / name).write_bytes(files[name])

    changes = st.sampled_from(sorted(files)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            damaged([files[name]])
            if name.endswith(".csv")
            else damaged([files[name]]) | archives(),
        )
    )
    fuzz(sandbox, count, changes, check)


@cases()
def test_lists_of_class_splits(count, sandbox):
    path, dataset = sandbox.inside / "splits.csv", patterns()
    rows = "".join(f"{name},train\n" for name in dataset.class_names)
    sound = [f"class,split\n{rows}".encode(), ("\ufeffclass,split\r\n" + rows).encode()]

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path):
            read_split_file(path, dataset)

    fuzz(sandbox, count, damaged(sound) | st.binary(max_size=60), check)


# ---- images ----


def _images():
    """Small images of every mode that the formats take."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 2**16, (12, 9), dtype=np.uint16))
    modes = {
        mode: colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F")
    }
    found = []
    for image in (*modes.values(), deep):
        for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
            for options in ({}, {"save_all": True, "append_images": [image]}):
                file = io.BytesIO()
                with contextlib.suppress(
                    OSError, ValueError, KeyError
                ):  # no such mode in this format
                    image.save(file, format=kind, **options)
                    found.append(file.getvalue())
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for kind, options in (
        ("png", {"exif": rotated, "transparency": 3}),
        ("jpeg", {"exif": rotated, "progressive": True}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "jpeg"}),
        ("tiff", {"compression": "tiff_adobe_deflate"}),
    ):
        file = io.BytesIO()
        (modes["P"] if "transparency" in options else colour).save(file, format=kind, **options)
        found.append(file.getvalue())
    return sorted(set(found))


def _chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@st.composite
def pngs(draw):
    """PNG files of sound checksums whose header may claim anything, a decompression bomb too."""
    sides = st.sampled_from([0, 1, 2, 9, 2**15, 2**31 - 1, 2**32 - 1])
    depth, colour = (
        draw(st.sampled_from([1, 2, 4, 8, 16, 3])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 7])),
    )
    header = struct.pack(">IIBBB", draw(sides), draw(sides), depth, colour, draw(st.integers(0, 1)))
    header += bytes([draw(st.integers(0, 1)), draw(st.integers(0, 2))])
    chunks = [_chunk(b"IHDR", header[: draw(st.sampled_from([13, 13, 13, 12, 0]))])]
    kinds = st.sampled_from(
        [b"IDAT", b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"zTXt", b"iCCP", b"acTL", b"fcTL"]
    )
    for kind in draw(st.lists(kinds, max_size=5)):
        content = draw(st.binary(max_size=40))
        if draw(st.booleans()):
            content = zlib.compress(content + bytes(draw(st.sampled_from([0, 100, 10_000]))))
        if kind == b"zTXt" or kind == b"iCCP":
            content = b"name\0\0" + content
        chunks.append(_chunk(kind, content))
    return (
        b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + draw(st.sampled_from([b"", _chunk(b"IEND", b"")]))
    )


BOMBS = (
    b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b",",
    b"BM"
    + struct.pack("<IHHI", 70, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, *[0] * 6),
    b"P6 99999 99999 255\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(sentinel) (w) file\n%%EOF\n",
)


@cases()
def test_images(count, sandbox, monkeypatch):
    # Pillow hands PostScript to another program.
    monkeypatch.setattr(subprocess, "Popen", _never)
    contents = st.one_of(
        damaged(_images()), damaged(_images()), pngs(), damaged(BOMBS), st.binary(max_size=60)
    )

    def check(content):
        with sandbox.reads("my.png"):
            image = images.decode_rgb(content, "my.png")
            assert image.mode == "RGB"
            assert images.square_rgb(image, 8).shape == (8, 8, 3)
        with sandbox.reads("my.png"):
            image = images.decode_grey(content, "my.png")
            assert images.square_ink(image, 8).shape == (8, 8)

    fuzz(sandbox, count, contents, check)


def _never(*arguments, **_):
    raise AssertionError(f"a reader calls a program: {arguments}")


# ---- pickles ----


class _Calls:
    def __init__(self, function, arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


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
        pickle.dumps([value, _Calls(*call)], protocol)
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
            read_layout(folder)

    fuzz(sandbox, count, damaged([sound]) | values, check)


# ---- prepared data sets ----


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
    with zipfile.ZipFile(file, "w", draw(st.sampled_from(METHODS))) as archive:
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
    np.savez(pickled, images=np.array([_Calls(os.mkdir, ("made",))], object))

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


# ---- checkpoints ----


def _state(step):
    weights = {"w": jnp.arange(6.0).reshape(2, 3) + step, "b": jnp.ones(3)}
    return MetaState(
        jnp.int32(step), weights, {"scale": jnp.ones(2)}, {"lr": jnp.ones(2)}, {}, {"mu": weights}
    )


@st.composite
def spoilt_files(draw, files, folders):
    """What to do to the files of a run: (action, path below the run, content)."""
    changes = []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(files)))
        action = draw(
            st.sampled_from(
                ["damage", "damage", "damage", "delete", "empty", "add", "folder", "drop"]
            )
        )
        if action == "damage":
            changes.append(("write", path, draw(damaged([files[path]]))))
        elif action == "empty":
            changes.append(("write", path, b""))
        elif action == "add":
            name = draw(
                st.sampled_from(["x", "9", "-1", "_METADATA", "4.orbax-checkpoint-tmp", "é \n"])
            )
            changes.append(
                ("write", os.path.join(os.path.dirname(path), name), draw(st.binary(max_size=9)))
            )
        elif action == "drop":
            changes.append(("drop", draw(st.sampled_from(sorted(folders))), b""))
        else:
            changes.append((action, path, b""))
    return changes


def _spoil(root, changes):
    for action, name, content in changes:
        path = root / name
        with contextlib.suppress(OSError):  # gone already, with its folder
            if action == "write":
                path.write_bytes(content)
            elif action == "drop":
                shutil.rmtree(path)
            else:
                path.unlink()
                if action == "folder":
                    path.mkdir()


@cases(few=15)
def test_checkpoints(count, sandbox):
    run, copied = sandbox.inside / "run", sandbox.inside / "copied"
    with Checkpoints(run, keep_best=2) as checkpoints:
        for step, accuracy in ((2, 0.5), (4, 0.4)):
            checkpoints.hold(_state(step), accuracy)
            checkpoints.save()
    paths = [path.relative_to(run) for path in run.rglob("*")]
    files = {str(path): (run / path).read_bytes() for path in paths if (run / path).is_file()}
    folders = {str(path) for path in paths if (run / path).is_dir()}

    def check(changes):
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(run, copied)
        _spoil(copied, changes)
        with sandbox.reads(allowed=copied), Checkpoints(copied, keep_best=2) as checkpoints:
            checkpoints.best_steps()
            latest = checkpoints.latest_step()
            sandbox.refused += latest != 4  # damaged, so it was set aside
            if latest is not None:
                restored = checkpoints.restore(latest, like=_state(0))
                jax.tree.map(np.testing.assert_array_equal, restored, _state(latest))

    fuzz(sandbox, count, spoilt_files(files, folders), check)
