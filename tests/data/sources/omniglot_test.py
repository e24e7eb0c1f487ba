"""Omniglot from archives, from a prepared copy and from a server, mostly with three characters."""

import functools
import http.server
import io
import os
import pathlib
import threading
import types
import zipfile

import numpy as np
import pytest
from absl import logging as absl_logging
from PIL import Image

from mamlpp_jax.data.readers import download
from mamlpp_jax.data.sources import omniglot, registry
from mamlpp_jax.data.sources.omniglot import ARCHIVES
from mamlpp_jax.errors import DataError

BACKGROUND, EVALUATION = "images_background.zip", "images_evaluation.zip"
# In the first archive the alphabets are not in the order of the drawings' numbers, as in Omniglot.
CLASSES = {
    BACKGROUND: ["Zeta_(old)/character01", "Alpha_of_the/character02"],
    EVALUATION: ["Greek/character10"],
}


def picture(number, side=105):
    """Encodes a 1-bit PNG with a few black pixels that depend on the number."""
    pixels = np.random.Generator(np.random.PCG64(number)).integers(0, 12, (side, side)) > 0
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "png")
    return file.getvalue()


def drawings(file):
    """Returns the members of a small archive."""
    members = {}
    for label, class_name in enumerate(CLASSES[file]):
        number = 1 + label + 2 * (file == EVALUATION)
        for drawer in range(1, 21):
            name = f"{file[:-4]}/{class_name}/{number:04d}_{drawer:02d}.png"
            members[name] = picture(100 * number + drawer)
    return members


def write_archive(folder, file, members):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr("__MACOSX/images/x/character01/._0001_01.png", b"")
        archive.writestr(f"{file[:-4]}/", b"")
        for name, encoded in members.items():
            archive.writestr(name, encoded)


@pytest.fixture
def archives(tmp_path):
    """Writes both small archives."""
    folder = tmp_path / "manual"
    for file in CLASSES:
        write_archive(folder, file, drawings(file))
    return folder


@pytest.fixture
def small(monkeypatch):
    """Lets Omniglot have three characters."""
    monkeypatch.setattr(omniglot, "NUM_CLASSES", 3)
    monkeypatch.setattr(
        omniglot,
        "ARCHIVES",
        tuple(known._replace(num_classes=len(CLASSES[known.file])) for known in ARCHIVES),
    )


@pytest.fixture
def warnings_logged(monkeypatch):
    messages = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *parts: messages.append(text % parts))
    return messages


def config(tmp_path, **changes):
    fields = {
        "name": "omniglot",
        "image_size": 28,
        "tfds_dir": "",
        "manual_dir": "",
        "cache_dir": str(tmp_path / "cache"),
    }
    return types.SimpleNamespace(**(fields | {key: str(value) for key, value in changes.items()}))


def expected_images(class_name):
    """Decodes, resizes and inverts a class of the small archives, independently of the code."""
    found = []
    for file in CLASSES:
        for name, encoded in drawings(file).items():
            if f"/{class_name}/" in name:
                found.append(Image.open(io.BytesIO(encoded)).convert("L"))
    return shrunk(found)


def shrunk(images):
    """Returns grey Pillow images in the order and form of the data set."""
    images = sorted(images, key=lambda image: image.tobytes())
    small = [image.resize((28, 28), Image.Resampling.LANCZOS) for image in images]
    return 255 - np.stack([np.asarray(image) for image in small])[..., None]


def test_the_archives_give_named_classes_of_inverted_pictures(archives, tmp_path, small):
    data = registry.load_dataset(config(tmp_path, manual_dir=archives))
    assert data.class_names == (
        "Alpha_of_the/character02",
        "Greek/character10",
        "Zeta_(old)/character01",
    )
    assert data.class_sizes.tolist() == [20, 20, 20]
    for row, name in enumerate(data.class_names):
        np.testing.assert_array_equal(data.images[20 * row : 20 * row + 20], expected_images(name))
    assert data.images.mean() < 60  # mostly paper, which is 0
    assert sorted(p.name for p in archives.iterdir()) == sorted(CLASSES)


def test_a_prepared_copy_gives_the_same(archives, tmp_path, small, capfd):
    from_archives = registry.load_dataset(config(tmp_path, manual_dir=archives))
    assert capfd.readouterr().out == ""
    copy = tmp_path / "cache" / "tfds"
    again = registry.load_dataset(config(tmp_path, tfds_dir=copy, cache_dir=tmp_path / "other"))
    np.testing.assert_array_equal(again.images, from_archives.images)
    assert again.class_names == from_archives.class_names
    assert [p.name for p in (tmp_path / "other").glob("*.npz")] == ["omniglot-28px-v1.npz"]


def test_tfds_labels_count_from_zero():
    assert omniglot.tfds_name("N_Ko/character01") == "N_Ko_0"
    assert omniglot._class_name("N_Ko_0", pathlib.Path("x")) == "N_Ko/character01"
    assert omniglot._class_name("N_Ko_11", pathlib.Path("x")) == "N_Ko/character12"


def test_tfds_dir_wins_over_manual_dir(archives, tmp_path, small):
    with pytest.raises(DataError, match="empty holds no prepared Omniglot"):
        registry.load_dataset(config(tmp_path, tfds_dir=tmp_path / "empty", manual_dir=archives))


def test_archives_that_are_not_the_published_ones_only_warn(
    archives, tmp_path, small, warnings_logged
):
    registry.load_dataset(config(tmp_path, manual_dir=archives))
    assert len(warnings_logged) == 2
    assert BACKGROUND in warnings_logged[0]
    assert EVALUATION in warnings_logged[1]


def refused(tmp_path, archives, *parts):
    with pytest.raises(DataError) as caught:
        registry.load_dataset(config(tmp_path, manual_dir=archives))
    for part in parts:
        assert part in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_a_missing_archive_is_named(archives, tmp_path, small):
    (archives / EVALUATION).unlink()
    refused(tmp_path, archives, f"{archives / EVALUATION} does not exist", BACKGROUND)


def test_a_missing_folder_is_named(tmp_path, small):
    refused(tmp_path, tmp_path / "nowhere", str(tmp_path / "nowhere" / BACKGROUND))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_archive_is_named(archives, tmp_path, small, share):
    content = (archives / BACKGROUND).read_bytes()
    (archives / BACKGROUND).write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, archives, str(archives / BACKGROUND), "truncated or not a zip file")


def test_a_damaged_member_is_named(archives, tmp_path, small):
    member, encoded = list(drawings(BACKGROUND).items())[25]
    content = bytearray((archives / BACKGROUND).read_bytes())
    position = content.index(encoded) + len(encoded) // 2
    content[position] ^= 0xFF
    (archives / BACKGROUND).write_bytes(content)
    refused(tmp_path, archives, str(archives / BACKGROUND), member, "damaged")


def test_a_missing_drawing_is_counted(archives, tmp_path, small):
    members = drawings(BACKGROUND)
    members.pop(next(iter(members)))
    write_archive(archives, BACKGROUND, members)
    refused(tmp_path, archives, str(archives / BACKGROUND), "19 drawings of Zeta_(old)/character01")


def test_a_missing_character_is_counted(archives, tmp_path, small):
    members = drawings(BACKGROUND)
    kept = {name: encoded for name, encoded in members.items() if "Zeta" not in name}
    write_archive(archives, BACKGROUND, kept)
    refused(tmp_path, archives, str(archives / BACKGROUND), "holds 1 characters", "must hold 2")


def test_the_real_counts_are_964_and_659(archives, tmp_path):
    assert [known.num_classes for known in ARCHIVES] == [964, 659]
    refused(tmp_path, archives, str(archives / BACKGROUND), "holds 2 characters", "964")


def test_what_is_no_drawing_is_ignored(archives, tmp_path, small):
    extra = {"images_evaluation/Greek/readme.png": b"", "images_evaluation/Greek/notes/a.png": b""}
    write_archive(archives, EVALUATION, drawings(EVALUATION) | extra)
    assert registry.load_dataset(config(tmp_path, manual_dir=archives)).num_classes == 3


def test_archives_that_were_swapped_are_refused(archives, tmp_path, small):
    write_archive(archives, EVALUATION, drawings(BACKGROUND))
    refused(tmp_path, archives, str(archives / EVALUATION), "holds 2 characters", "must hold 1")


def test_a_member_that_leaves_the_folder_is_refused(archives, tmp_path, small):
    members = drawings(EVALUATION)
    members["../Greek/character10/0003_21.png"] = picture(0)
    write_archive(archives, EVALUATION, members)
    refused(tmp_path, archives, str(archives / EVALUATION), "../Greek", "'..'")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"not a picture", "Cannot decode"),
        (picture(1)[:200], "Cannot decode"),
        (picture(1, side=104), "104x104"),
    ],
)
def test_a_bad_picture_is_named(archives, tmp_path, small, content, part):
    members = drawings(EVALUATION)
    name = list(members)[7]
    members[name] = content
    write_archive(archives, EVALUATION, members)
    refused(tmp_path, archives, part, "Greek/character10", f"{archives / EVALUATION}:{name}")


def test_a_bad_picture_of_a_prepared_copy_is_named(archives, tmp_path, small, monkeypatch):
    members = drawings(EVALUATION)
    members[list(members)[7]] = b"not a picture"
    write_archive(archives, EVALUATION, members)
    with monkeypatch.context() as unchecked:
        unchecked.setattr(omniglot, "decode", lambda class_name, drawing: None)
        omniglot.prepare(archives, tmp_path / "tfds")
    with pytest.raises(DataError, match=r"Cannot decode .*test\[\d+\] of class Greek/character10"):
        omniglot.read_prepared(tmp_path / "tfds")


def test_a_folder_without_a_prepared_copy_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere holds no prepared Omniglot.*omniglot/3\.0\.0"):
        omniglot.read_prepared(tmp_path / "nowhere")


@pytest.fixture
def prepared(archives, tmp_path, small):
    """Prepares the small archives below the returned TFDS root."""
    omniglot.prepare(archives, tmp_path / "cache" / "tfds")
    return tmp_path / "cache" / "tfds"


def break_copy(prepared, kind):
    version = prepared / "mamlpp_omniglot" / "1.0.0"
    shard = next(version.glob("*-test.array_record-*"))
    if kind == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5000])
    elif kind == "shard gone":
        shard.unlink()
    elif kind == "info":
        (version / "dataset_info.json").write_text('{"na')
    elif kind == "labels":
        (version / "label.labels.txt").unlink()
    return version


@pytest.mark.parametrize("kind", ["truncated", "shard gone", "info", "labels"])
def test_a_broken_prepared_copy_is_named(prepared, kind):
    version = break_copy(prepared, kind)
    with pytest.raises(DataError, match=str(version)):
        omniglot.read_prepared(prepared)


@pytest.fixture
def server(archives, monkeypatch, small):
    """Serves the small archives as if they were the published ones; returns the paths asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(archives))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/"
        published = [
            known._replace(url=url + known.file, sha256=download.sha256_of(archives / known.file))
            for known in omniglot.ARCHIVES
        ]
        monkeypatch.setattr(omniglot, "ARCHIVES", tuple(published))
        yield asked
        running.shutdown()
        thread.join()


def test_without_a_folder_the_archives_are_downloaded(server, archives, tmp_path, warnings_logged):
    data = registry.load_dataset(config(tmp_path))
    assert server == [f"/{BACKGROUND}", f"/{EVALUATION}"]
    local = registry.load_dataset(config(tmp_path, manual_dir=archives, cache_dir=tmp_path / "b"))
    np.testing.assert_array_equal(data.images, local.images)
    assert warnings_logged == []
    # What was prepared serves another size; what was downloaded serves another preparation.
    registry.load_dataset(resized(tmp_path, 14))
    break_copy(tmp_path / "cache" / "tfds", "truncated")
    registry.load_dataset(resized(tmp_path, 20))
    assert len(server) == 2
    assert len(warnings_logged) == 1
    assert "Preparing Omniglot again" in warnings_logged[0]


def resized(tmp_path, size):
    changed = config(tmp_path)
    changed.image_size = size
    return changed


def test_a_failed_download_names_the_url_and_the_way_out(server, archives, tmp_path):
    (archives / EVALUATION).unlink()
    with pytest.raises(DataError, match=rf"http://127.*{EVALUATION}.*404.*data\.manual_dir"):
        registry.load_dataset(config(tmp_path))


def test_an_unreachable_server_is_reported(tmp_path, small, monkeypatch):
    gone = [known._replace(url="http://127.0.0.1:9/" + known.file) for known in omniglot.ARCHIVES]
    monkeypatch.setattr(omniglot, "ARCHIVES", tuple(gone))
    with pytest.raises(DataError, match=rf"http://127\.0\.0\.1:9/{BACKGROUND}.*data\.manual_dir"):
        registry.load_dataset(config(tmp_path))


def test_a_changed_download_is_refused_and_not_kept(server, archives, tmp_path):
    (archives / EVALUATION).write_bytes((archives / EVALUATION).read_bytes() + b"x")
    with pytest.raises(DataError, match=rf"{EVALUATION} has the SHA-256.*data\.manual_dir"):
        registry.load_dataset(config(tmp_path))
    kept = tmp_path / "cache" / "downloads" / "omniglot"
    assert [p.name for p in kept.iterdir()] == [BACKGROUND]


def test_the_published_files_are_known_by_checksum():
    for known in ARCHIVES:
        assert known.url.startswith("https://raw.githubusercontent.com/brendenlake/omniglot/")
        assert len(bytes.fromhex(known.sha256)) == 32


def test_the_builder_does_not_take_the_name_of_tfdss_own():
    from mamlpp_jax.data.sources.omniglot_builder import MamlppOmniglot

    assert MamlppOmniglot.name == "mamlpp_omniglot"


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("MAMLPP_DATA_DIR")
    if not folder:
        pytest.skip("set MAMLPP_DATA_DIR to a folder with omniglot/ and tfds/")
    return pathlib.Path(folder)


@pytest.fixture(scope="module")
def real_prepared(real, tmp_path_factory):
    cache = tmp_path_factory.mktemp("prepared")
    before = snapshot(real)
    data = registry.load_dataset(config(cache, tfds_dir=real / "tfds"))
    assert snapshot(real) == before
    return data


def snapshot(folder):
    """Lists the files of both sources, to see that nothing is written beside them."""
    found = [*folder.glob("omniglot/**/*"), *folder.glob("tfds/omniglot/**/*")]
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_the_real_set_has_its_size(real_prepared):
    assert real_prepared.images.shape == (32460, 28, 28, 1)
    assert real_prepared.num_classes == 1623
    assert len({name.split("/")[0] for name in real_prepared.class_names}) == 50
    assert real_prepared.class_names[0] == "Alphabet_of_the_Magi/character01"
    assert 0.05 < real_prepared.images.mean() / 255 < 0.12


def test_real_archives_and_prepared_copy_agree_pixel_by_pixel(real, real_prepared, tmp_path):
    before = snapshot(real)
    raw = registry.load_dataset(config(tmp_path, manual_dir=real / "omniglot"))
    assert raw.class_names == real_prepared.class_names
    np.testing.assert_array_equal(raw.images, real_prepared.images)
    assert snapshot(real) == before


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (BACKGROUND, "Arcadian/character01"),
        (BACKGROUND, "N_Ko/character33"),
        (EVALUATION, "Tengwar/character25"),
    ],
)
def test_real_classes_are_the_folders_of_the_archive(real, real_prepared, file, name):
    # By way of the archive's own names: both sources could agree on a wrong one.
    with zipfile.ZipFile(real / "omniglot" / file) as archive:
        members = [m for m in archive.namelist() if f"/{name}/" in m and m.endswith(".png")]
        images = [Image.open(io.BytesIO(archive.read(member))).convert("L") for member in members]
    row = 20 * real_prepared.class_names.index(name)
    np.testing.assert_array_equal(real_prepared.images[row : row + 20], shrunk(images))
