"""The form of a data set, its file, the cache in front of the sources, and archives."""

import concurrent.futures
import os
import stat
import subprocess
import sys
import threading
import time
import types
import zipfile

import numpy as np
import pytest
from absl import logging as absl_logging

from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers.archives import is_safe, open_zip, read_member
from mamlpp_jax.data.readers.images import decode_grey
from mamlpp_jax.data.sources import registry as load_lib
from mamlpp_jax.errors import ConfigError, DataError, MamlppError


def make(name="toy", sizes=(2, 3), side=4, fill=0):
    images = np.arange(sum(sizes) * side * side, dtype=np.int64) + fill
    return Dataset(
        name=name,
        images=(images % 256).astype(np.uint8).reshape(-1, side, side, 1),
        class_names=tuple(f"class{i:03d}" for i in range(len(sizes))),
        class_sizes=np.array(sizes, np.int32),
    )


def same(a, b):
    return (
        a.name == b.name
        and a.class_names == b.class_names
        and np.array_equal(a.images, b.images)
        and np.array_equal(a.class_sizes, b.class_sizes)
    )


def config(tmp_path, **changes):
    fields = {
        "name": "toy",
        "image_size": 4,
        "tfds_dir": "",
        "manual_dir": "",
        "cache_dir": str(tmp_path / "cache"),
    }
    return types.SimpleNamespace(**(fields | changes))


@pytest.fixture
def builds(monkeypatch):
    """Registers a source "toy"; the list grows by one with every building."""
    calls = []

    def build(data_config, cache_dir):
        calls.append(cache_dir)
        return make(side=data_config.image_size)

    monkeypatch.setitem(load_lib._SOURCES, "toy", load_lib._Source(3, build))
    return calls


@pytest.fixture
def warnings_logged(monkeypatch):
    messages = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *parts: messages.append(text % parts))
    return messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 4, 4, 1), np.float32)}, r"float32 \[5, 4, 4, 1\].*uint8"),
        ({"images": np.zeros((5, 4, 4), np.uint8)}, r"\[5, 4, 4\].*\[T, H, W, C\]"),
        ({"images": np.zeros((5, 4, 4, 2), np.uint8)}, "C must be 1 or 3"),
        ({"images": [1, 2]}, "of type list"),
        ({"images": np.zeros((6, 4, 4, 1), np.uint8)}, "sum 5.*6 images"),
        ({"class_sizes": np.array([2, 3])}, "int64.*int32"),
        ({"class_sizes": np.array([5, 0], np.int32)}, "smallest 0"),
        ({"class_sizes": np.array([2, 2, 1], np.int32)}, "2 class_names but 3 class_sizes"),
        ({"class_names": ("b", "a")}, "sorted"),
        ({"class_names": ("a", "a")}, "unique"),
        ({"class_names": ["a", "b"]}, "class_names"),
        ({"class_splits": ("train",)}, "class_splits"),
        ({"class_splits": ("train", "dev")}, "class_splits.*train, val, test"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    good = make()
    parts = {
        "name": good.name,
        "images": good.images,
        "class_names": good.class_names,
        "class_sizes": good.class_sizes,
    }
    with pytest.raises(DataError, match=rf"'toy'.*{message}"):
        Dataset(**(parts | changes))


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "toy.npz"
    dataset_lib.save(make(), path)
    assert same(dataset_lib.load(path), make())
    assert dataset_lib.load(path).num_classes == 2
    dataset_lib.save(make(fill=7), path)
    assert same(dataset_lib.load(path), make(fill=7))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.npz"]


def test_published_splits_are_saved_and_old_files_have_none(tmp_path):
    path = tmp_path / "toy.npz"
    good = make()
    split = Dataset("toy", good.images, good.class_names, good.class_sizes, ("val", "test"))
    dataset_lib.save(split, path)
    assert dataset_lib.load(path).class_splits == ("val", "test")
    dataset_lib.save(good, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    del arrays["class_splits"]
    with path.open("wb") as file:
        np.savez(file, **arrays)
    assert dataset_lib.load(path).class_splits == ()


def test_names_of_other_scripts_survive(tmp_path):
    named = Dataset("größe", make().images, ("a/b", "ж"), make().class_sizes)
    dataset_lib.save(named, tmp_path / "x.npz")
    assert same(dataset_lib.load(tmp_path / "x.npz"), named)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "toy.npz"
    dataset_lib.save(make(), path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        dataset_lib.save(make(fill=1), path)
    monkeypatch.undo()
    assert same(dataset_lib.load(path), make())
    assert [p.name for p in tmp_path.iterdir()] == ["toy.npz"]


def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    dataset_lib.save(make(), tmp_path / "toy.npz")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("toy.npz", "plain")}
    assert len(modes) == 1


def damage(path, kind):
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flipped":
        # Inside the pixels, where only the checksum can tell.
        position = content.index(make(side=8).images.tobytes()) + 5
        path.write_bytes(content[:position] + b"\xaa" + content[position + 1 :])
    elif kind == "text":
        path.write_text("not a data set")
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "other":
        with path.open("wb") as file:
            np.savez(file, images=make().images)
    elif kind == "future":
        with np.load(path) as archive:
            arrays = dict(archive)
        with path.open("wb") as file:
            np.savez(file, **(arrays | {"format": np.int32(99)}))
    elif kind == "pickled":
        with path.open("wb") as file:
            np.savez(file, format=np.array([{}], dtype=object))
    elif kind == "folder":
        path.unlink()
        path.mkdir()


DAMAGES = ("truncated", "empty", "flipped", "text", "array", "other", "future", "pickled")


@pytest.mark.parametrize("kind", [*DAMAGES, "folder"])
def test_a_broken_file_is_named(tmp_path, kind):
    path = tmp_path / "toy.npz"
    dataset_lib.save(make(side=8), path)
    damage(path, kind)
    with pytest.raises(DataError, match=r"toy\.npz is broken"):
        dataset_lib.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"toy\.npz does not exist"):
        dataset_lib.load(tmp_path / "toy.npz")


def test_the_known_data_sets_are_listed():
    assert {"glyphs", "omniglot"} <= set(load_lib.known_names())
    assert list(load_lib.known_names()) == sorted(load_lib.known_names())


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.name is 'omniglott'.*glyphs.*omniglot"):
        load_lib.load_dataset(config(tmp_path, name="omniglott"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("size", [0, -28, 28.0, "28"])
def test_a_bad_size_is_refused(tmp_path, builds, size):
    with pytest.raises(ConfigError, match=r"data\.image_size is"):
        load_lib.load_dataset(config(tmp_path, image_size=size))


def test_a_data_set_is_made_once(tmp_path, builds):
    first = load_lib.load_dataset(config(tmp_path))
    assert same(load_lib.load_dataset(config(tmp_path)), first)
    assert builds == [tmp_path / "cache"]
    names = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert names == ["toy-4px-v3.npz", "toy.lock"]


def test_another_size_or_version_is_made_anew(tmp_path, builds, monkeypatch):
    load_lib.load_dataset(config(tmp_path))
    assert load_lib.load_dataset(config(tmp_path, image_size=6)).images.shape[1] == 6
    build = load_lib._SOURCES["toy"].build
    monkeypatch.setitem(load_lib._SOURCES, "toy", load_lib._Source(4, build))
    load_lib.load_dataset(config(tmp_path))
    assert len(builds) == 3


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_cache_file_is_named_and_replaced(tmp_path, builds, warnings_logged, kind):
    sized = config(tmp_path, image_size=8)
    load_lib.load_dataset(sized)
    damage(tmp_path / "cache" / "toy-8px-v3.npz", kind)
    assert same(load_lib.load_dataset(sized), make(side=8))
    assert len(builds) == 2
    assert len(warnings_logged) == 1
    assert "toy-8px-v3.npz" in warnings_logged[0]
    load_lib.load_dataset(sized)
    assert len(builds) == 2


def test_a_cache_file_of_another_data_set_is_replaced(tmp_path, builds, warnings_logged):
    (tmp_path / "cache").mkdir()
    dataset_lib.save(make(name="other"), tmp_path / "cache" / "toy-4px-v3.npz")
    assert load_lib.load_dataset(config(tmp_path)).name == "toy"
    assert "'other'" in warnings_logged[0]


def test_a_cache_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, builds):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache_dir.*file/cache"):
        load_lib.load_dataset(config(tmp_path, cache_dir=str(tmp_path / "file" / "cache")))
    assert builds == []


def test_a_read_only_cache_folder_serves_what_it_has(tmp_path, builds, monkeypatch):
    load_lib.load_dataset(config(tmp_path))
    # Not by chmod: the superuser writes anyway.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    load_lib.load_dataset(config(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.cache_dir.*not writable"):
        load_lib.load_dataset(config(tmp_path, image_size=5))
    assert len(builds) == 1


def test_a_full_disk_is_reported_with_the_field(tmp_path, builds, monkeypatch):
    def full(dataset, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_lib, "save", full)
    with pytest.raises(DataError, match=r"data\.cache_dir.*toy-4px-v3\.npz.*No space"):
        load_lib.load_dataset(config(tmp_path))


def test_the_default_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert load_lib.cache_folder("") == tmp_path / "x" / "mamlpp_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert load_lib.cache_folder("") == tmp_path / "h" / ".cache" / "mamlpp_jax"
    assert load_lib.cache_folder("~/data") == tmp_path / "h" / "data"
    assert load_lib.cache_folder("/elsewhere").as_posix() == "/elsewhere"


def test_reading_the_cache_takes_numpy_alone(tmp_path):
    (tmp_path / "cache").mkdir()
    dataset_lib.save(make(name="omniglot"), tmp_path / "cache" / "omniglot-4px-v1.npz")
    script = f"""
import sys, types
for name in ("tensorflow_datasets", "tensorflow", "matplotlib", "PIL", "array_record", "jax"):
    sys.modules[name] = None  # importing it now fails
from mamlpp_jax.data.sources.registry import load_dataset
data = load_dataset(types.SimpleNamespace(
    name="omniglot", image_size=4, tfds_dir="", manual_dir="", cache_dir={str(tmp_path / "cache")!r}
))
print(data.num_classes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"


def test_a_picture_that_is_none_is_named():
    with pytest.raises(DataError, match=r"Cannot decode a/b\.png"):
        decode_grey(b"not a picture", "a/b.png")


@pytest.mark.parametrize("name", ["a/b.png", "a/", "a..b/c", "./a"])
def test_safe_names(name):
    assert is_safe(name)


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/a", "C:/a", "C:a", "a\\..\\b", "\\a", "\\\\host\\share\\a"]
)
def test_unsafe_names_are_refused(tmp_path, name):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(DataError, match=r"bad\.zip has the member"), open_zip(path):
        pass


def test_a_damaged_member_is_named(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", b"contents of the member")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"contents", b"c0ntents"))
    with open_zip(path) as archive:
        with pytest.raises(DataError, match=r"x\.zip: member 'a/b\.txt' cannot be read"):
            read_member(archive, "a/b.txt")
        with pytest.raises(DataError, match="member 'missing' cannot be read"):
            read_member(archive, "missing")


def test_one_process_makes_what_others_wait_for(tmp_path, monkeypatch, caplog):
    """Threads stand for processes: the lock belongs to the open file."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def build(data_config, cache_dir):
        calls.append(cache_dir)
        begun.set()
        assert go_on.wait(60)
        return make(side=data_config.image_size)

    monkeypatch.setitem(load_lib._SOURCES, "toy", load_lib._Source(3, build))
    with (
        caplog.at_level("INFO", "absl"),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(load_lib.load_dataset, config(tmp_path))
        assert begun.wait(60)
        others = [pool.submit(load_lib.load_dataset, config(tmp_path)) for _ in range(2)]
        deadline = time.monotonic() + 60
        while caplog.text.count("waiting for process") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
        assert all(same(done.result(60), make()) for done in (first, *others))
    assert len(calls) == 1
    assert f"waiting for process {os.getpid()} on host" in caplog.text


def test_what_a_killed_maker_left_is_removed_by_the_next(tmp_path, builds):
    cache = tmp_path / "cache"
    cache.mkdir()
    left = cache / f".toy-4px-v3.npz.{32 * 'a'}.tmp"
    others = [cache / f".toy-8px-v3.npz.{32 * 'a'}.tmp", cache / ".toy-4px-v3.npz.mine.tmp"]
    for path in (left, *others):
        path.write_bytes(b"half")
    load_lib.load_dataset(config(tmp_path))
    assert not left.exists()
    assert all(path.exists() for path in others)  # another maker's, which may be at work
    assert len(builds) == 1


@pytest.mark.parametrize("field", ["manual_dir", "tfds_dir", "cache_dir"])
@pytest.mark.parametrize("name", ["omniglot", "mini_imagenet", "image_folder", "tfds:mnist"])
def test_paths_that_cannot_be_are_named(tmp_path, name, field):
    channels = {"channels": 0}
    changes = {"name": name, **channels, field: str(tmp_path / ("x" * 300))}
    if (name, field) in {("image_folder", "tfds_dir"), ("tfds:mnist", "manual_dir")}:
        changes["cache_dir"] = changes[field]  # the field is not theirs
    with pytest.raises(MamlppError, match=r"xxx|manual_dir|tfds_dir"):
        load_lib.load_dataset(config(tmp_path, **changes))
