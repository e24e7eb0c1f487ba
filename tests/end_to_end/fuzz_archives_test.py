"""Whatever an archive or list of classes holds, it is read or refused in one paragraph; see `helpers/fuzzing`."""

import contextlib
import io
import zipfile

import pytest
from hypothesis import strategies as st

from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.sources import omniglot
from mamlpp_jax.data.splits import read_split_file
from tests.helpers.fuzzing import COMPRESSIONS, cases, damaged, fuzz, sandbox
from tests.helpers.small_runs import patterns
from tests.helpers.small_sources import mini_zips, read_mini_imagenet, shrink_mini_imagenet

__all__ = ["sandbox"]  # a fixture

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
                member.compress_type = draw(st.sampled_from(COMPRESSIONS))
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
def test_archives(count, sandbox, monkeypatch):
    known = omniglot.ARCHIVES[0]._replace(num_classes=1)
    monkeypatch.setattr(omniglot, "ARCHIVES", (known,))
    path = sandbox.inside / known.file

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path), open_zip(path) as archive:
            for name in archive.namelist():
                with sandbox.reads(path):
                    read_member(archive, name)
        with sandbox.reads(path):
            omniglot.read_archives(sandbox.inside, 28)

    fuzz(sandbox, count, archives() | st.binary(max_size=80), check)


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
            read_mini_imagenet(folder)
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
