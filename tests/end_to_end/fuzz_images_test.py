"""Whatever an image file holds, it is read or refused in one paragraph; see `helpers/fuzzing`."""

import contextlib
import io
import struct
import subprocess
import zlib

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from mamlpp_jax.data.readers import images
from tests.helpers.fuzzing import cases, damaged, fuzz, sandbox

__all__ = ["sandbox"]  # a fixture


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
