"""Omniglot from archives, from a prepared copy and from a server, mostly with three characters."""

import hashlib
import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.data.dataset import fingerprint
from mamlpp_jax.data.sources import omniglot, registry
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources
from tests.helpers.http_server import serve
from tests.helpers.small_sources import (
    OMNIGLOT_CLASSES,
    omniglot_archive,
    omniglot_drawing,
    omniglot_members,
)

BACKGROUND, EVALUATION = OMNIGLOT_CLASSES


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A folder with both small archives."""
    small_sources.shrink_omniglot(monkeypatch)
    return small_sources.omniglot_archives(tmp_path / "manual")


def read(tmp_path, **changes):
    changes = {"image_size": 28, **changes}
    return registry.load_dataset(small_sources.data_config(tmp_path, "omniglot", **changes))


def expected_images(class_name):
    """Decodes, resizes and inverts a class of the small archives, independently of the code."""
    members = {k: v for file in OMNIGLOT_CLASSES for k, v in omniglot_members(file).items()}
    found = [encoded for name, encoded in members.items() if f"/{class_name}/" in name]
    return shrunk([Image.open(io.BytesIO(encoded)).convert("L") for encoded in found])


def shrunk(images):
    """Grey Pillow images in the order and form of the data set."""
    images = sorted(images, key=lambda image: image.tobytes())
    small = [image.resize((28, 28), Image.Resampling.LANCZOS) for image in images]
    return 255 - np.stack([np.asarray(image) for image in small])[..., None]


def test_the_archives_give_named_classes_of_inverted_images(archives, tmp_path):
    data = read(tmp_path, manual_dir=archives)
    assert data.class_names == (
        "Alpha_of_the/character02",
        "Greek/character10",
        "Zeta_(old)/character01",
    )
    assert data.class_sizes.tolist() == [20, 20, 20]
    for row, name in enumerate(data.class_names):
        np.testing.assert_array_equal(data.images[20 * row : 20 * row + 20], expected_images(name))
    assert data.images.mean() < 60  # mostly paper, which is 0
    assert sorted(p.name for p in archives.iterdir()) == sorted(OMNIGLOT_CLASSES)
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".npz", ".lock"}


def test_a_copy_prepared_by_tfds_gives_the_same(archives, tmp_path):
    root = small_sources.omniglot_tfds(tmp_path / "tfds")
    prepared = read(tmp_path, tfds_dir=root, cache_dir=tmp_path / "other")
    assert fingerprint(prepared) == fingerprint(read(tmp_path, manual_dir=archives))


def test_tfds_dir_wins_over_manual_dir(archives, tmp_path):
    with pytest.raises(DataError, match=r"none holds no prepared Omniglot.*omniglot/3\.0\.0"):
        read(tmp_path, tfds_dir=tmp_path / "none", manual_dir=archives)


def test_archives_that_are_not_the_published_ones_only_warn(archives, tmp_path, caplog):
    read(tmp_path, manual_dir=archives)
    assert len(caplog.messages) == 2
    assert BACKGROUND in caplog.messages[0]
    assert EVALUATION in caplog.messages[1]


def refused(tmp_path, archives, *parts):
    with pytest.raises(DataError) as caught:
        read(tmp_path, manual_dir=archives)
    for part in parts:
        assert part in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_a_missing_archive_is_named(archives, tmp_path):
    (archives / EVALUATION).unlink()
    refused(tmp_path, archives, f"{archives / EVALUATION} does not exist", BACKGROUND)


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path, tmp_path / "nowhere", str(tmp_path / "nowhere" / BACKGROUND))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_archive_is_named(archives, tmp_path, share):
    content = (archives / BACKGROUND).read_bytes()
    (archives / BACKGROUND).write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, archives, str(archives / BACKGROUND), "truncated or not a zip file")


def test_a_damaged_member_is_named(archives, tmp_path):
    member, encoded = list(omniglot_members(BACKGROUND).items())[25]
    content = bytearray((archives / BACKGROUND).read_bytes())
    position = content.index(encoded) + len(encoded) // 2
    content[position] ^= 0xFF
    (archives / BACKGROUND).write_bytes(content)
    refused(tmp_path, archives, str(archives / BACKGROUND), member, "damaged")


def test_a_missing_drawing_is_counted(archives, tmp_path):
    members = omniglot_members(BACKGROUND)
    members.pop(next(iter(members)))
    omniglot_archive(archives, BACKGROUND, members)
    refused(tmp_path, archives, str(archives / BACKGROUND), "19 drawings of Zeta_(old)/character01")


def test_a_missing_character_is_counted(archives, tmp_path):
    members = omniglot_members(BACKGROUND)
    kept = {name: encoded for name, encoded in members.items() if "Zeta" not in name}
    omniglot_archive(archives, BACKGROUND, kept)
    refused(tmp_path, archives, str(archives / BACKGROUND), "holds 1 characters", "must hold 2")


def test_the_real_counts_are_964_and_659(tmp_path):
    assert [known.num_classes for known in omniglot.ARCHIVES] == [964, 659]
    folder = small_sources.omniglot_archives(tmp_path / "manual")
    refused(tmp_path, folder, str(folder / BACKGROUND), "holds 2 characters", "964")


def test_members_that_are_no_drawings_are_ignored(archives, tmp_path):
    extra = {"images_evaluation/Greek/readme.png": b"", "images_evaluation/Greek/notes/a.png": b""}
    omniglot_archive(archives, EVALUATION, omniglot_members(EVALUATION) | extra)
    assert read(tmp_path, manual_dir=archives).num_classes == 3


def test_swapped_archives_are_refused(archives, tmp_path):
    omniglot_archive(archives, EVALUATION, omniglot_members(BACKGROUND))
    refused(tmp_path, archives, str(archives / EVALUATION), "holds 2 characters", "must hold 1")


def test_a_member_that_leaves_the_folder_is_refused(archives, tmp_path):
    extra = {"../Greek/character10/0003_21.png": omniglot_drawing(0)}
    omniglot_archive(archives, EVALUATION, omniglot_members(EVALUATION) | extra)
    refused(tmp_path, archives, str(archives / EVALUATION), "../Greek", "'..'")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"not an image", "Cannot decode"),
        (omniglot_drawing(1)[:200], "Cannot decode"),
        (omniglot_drawing(1, side=104), "104x104"),
    ],
)
def test_a_bad_drawing_is_named(archives, tmp_path, content, part):
    members = omniglot_members(EVALUATION)
    name = list(members)[7]
    omniglot_archive(archives, EVALUATION, members | {name: content})
    refused(tmp_path, archives, part, "Greek/character10", f"{archives / EVALUATION}:{name}")


def test_a_bad_drawing_of_a_prepared_copy_is_named(archives, tmp_path):
    name = list(omniglot_members(EVALUATION))[7]
    root = small_sources.omniglot_tfds(tmp_path / "tfds", {name: b"not an image"})
    with pytest.raises(DataError, match=r"Cannot decode .*test\[\d+\] of class Greek/character10"):
        read(tmp_path, tfds_dir=root)


@pytest.mark.parametrize("damage", ["truncated", "shard", "info", "labels"])
def test_a_broken_prepared_copy_is_named(archives, tmp_path, damage):
    root = small_sources.omniglot_tfds(tmp_path / "tfds")
    version = root / "omniglot" / "1.0.0"
    shard = next(version.glob("*-test.array_record-*"))
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5000])
    elif damage == "shard":
        shard.unlink()
    elif damage == "info":
        (version / "dataset_info.json").write_text('{"na')
    else:
        (version / "label.labels.txt").unlink()
    with pytest.raises(DataError, match=str(version)):
        read(tmp_path, tfds_dir=root)


@pytest.fixture
def server(archives, monkeypatch):
    """Serves the small archives as if they were the published ones; the list of requested paths."""
    with serve(archives) as (url, requested):
        published = [
            known._replace(sha256=hashlib.sha256((archives / known.file).read_bytes()).hexdigest())
            for known in omniglot.ARCHIVES
        ]
        monkeypatch.setattr(omniglot, "ARCHIVES", tuple(published))
        monkeypatch.setattr(omniglot, "URL", url)
        yield requested


def test_without_a_folder_the_archives_are_downloaded_once(server, archives, tmp_path, caplog):
    data = read(tmp_path)
    assert server == [f"/{BACKGROUND}", f"/{EVALUATION}"]
    local = read(tmp_path, manual_dir=archives, cache_dir=tmp_path / "b")
    assert fingerprint(data) == fingerprint(local)
    assert caplog.messages == []
    read(tmp_path, image_size=14)
    assert len(server) == 2


def test_a_failed_download_names_the_url_and_the_way_out(server, archives, tmp_path):
    (archives / EVALUATION).unlink()
    with pytest.raises(DataError, match=rf"http://127.*{EVALUATION}.*404.*data\.manual_dir"):
        read(tmp_path)


def test_the_published_files_are_known_by_checksum():
    assert omniglot.URL.startswith("https://raw.githubusercontent.com/brendenlake/omniglot/")
    for known in omniglot.ARCHIVES:
        assert len(bytes.fromhex(known.sha256)) == 32


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("MAMLPP_DATA_DIR")
    if not folder:
        pytest.skip("set MAMLPP_DATA_DIR to a folder with omniglot/ and tfds/")
    return pathlib.Path(folder)


@pytest.fixture(scope="module")
def real_prepared(real, tmp_path_factory):
    before = snapshot(real)
    data = read(tmp_path_factory.mktemp("prepared"), tfds_dir=real / "tfds")
    assert snapshot(real) == before
    return data


def snapshot(folder):
    """The files of both sources, to see that nothing is written beside them."""
    found = [*folder.glob("omniglot/**/*"), *folder.glob("tfds/omniglot/**/*")]
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_the_real_set_has_its_size(real_prepared):
    assert real_prepared.images.shape == (32460, 28, 28, 1)
    assert real_prepared.num_classes == 1623
    assert len({name.split("/")[0] for name in real_prepared.class_names}) == 50
    assert real_prepared.class_names[0] == "Alphabet_of_the_Magi/character01"
    assert 0.05 < real_prepared.images.mean() / 255 < 0.12


@pytest.mark.slow
def test_real_archives_and_prepared_copy_are_the_same(real, real_prepared, tmp_path):
    before = snapshot(real)
    raw = read(tmp_path, manual_dir=real / "omniglot")
    assert fingerprint(raw) == fingerprint(real_prepared)
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
