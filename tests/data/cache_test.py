"""The cache: made once, checked, and made again when it is broken."""

import concurrent.futures
import os
import threading
import time

import pytest

from mamlpp_jax.data import cache, dataset as dataset_lib
from mamlpp_jax.data.cache import CacheKey
from mamlpp_jax.errors import ConfigError, DataError
from tests.helpers.small_sources import DATASET_DAMAGES, damage_dataset_file, same, toy_dataset

KEY = CacheKey("toy", "", image_size=8, version=3)
FILE = "toy-8px-v3.npz"


class Maker:
    """Makes data sets and counts them."""

    def __init__(self, folder):
        self.folder = folder / "cache"
        self.count = 0

    def load(self, key=KEY, folder=None, **options):
        def make():
            self.count += 1
            return toy_dataset(name=key.name, side=key.image_size)

        return cache.load_or_make(folder or self.folder, key, make, **options)


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path)


def test_a_data_set_is_made_once(maker):
    first = maker.load()
    assert same(maker.load(), first)
    assert maker.count == 1
    assert sorted(p.name for p in maker.folder.iterdir()) == [FILE, "toy.lock"]


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 6}, {"version": 4}, {"identity": "5f3a"}, {"name": "tfds:x/y:1.0.0"}],
)
def test_another_key_has_its_own_file(maker, changes):
    maker.load()
    key = KEY._replace(**changes)
    assert maker.load(key).images.shape[1] == key.image_size
    assert maker.count == 2
    assert len(list(maker.folder.glob("*.npz"))) == 2


def test_a_source_that_is_not_read_is_logged(maker, caplog):
    with caplog.at_level("INFO", "absl"):
        maker.load(source_dir="/raw")
        assert "is not read" not in caplog.text
        maker.load(source_dir="/raw")
    assert f"/raw is not read (remove {maker.folder / FILE} to read it)" in caplog.text


@pytest.mark.parametrize("kind", DATASET_DAMAGES)
def test_a_broken_file_is_named_and_replaced(maker, caplog, kind):
    maker.load()
    damage_dataset_file(maker.folder / FILE, kind)
    assert same(maker.load(), toy_dataset(side=8))
    assert maker.count == 2
    assert len(caplog.messages) == 1
    assert FILE in caplog.messages[0]
    maker.load()
    assert maker.count == 2


def test_a_file_of_another_data_set_is_replaced(maker, caplog):
    maker.folder.mkdir()
    dataset_lib.save(toy_dataset(name="other", side=8), maker.folder / FILE)
    assert maker.load().name == "toy"
    assert "'other'" in caplog.text


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, maker):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache_dir.*file/cache"):
        maker.load(folder=tmp_path / "file" / "cache")
    assert maker.count == 0


def test_a_read_only_folder_serves_what_it_has(maker, monkeypatch):
    maker.load()
    # Not by chmod: the superuser writes anyway.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    maker.load()
    with pytest.raises(ConfigError, match=r"data\.cache_dir.*not writable"):
        maker.load(KEY._replace(image_size=5))
    assert maker.count == 1


def test_a_full_disk_is_reported_with_the_field(maker, monkeypatch):
    def full(dataset, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_lib, "save", full)
    with pytest.raises(DataError, match=rf"data\.cache_dir.*{FILE}.*No space"):
        maker.load()


def test_the_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cache_folder("") == tmp_path / "x" / "mamlpp_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert cache.cache_folder("") == tmp_path / "h" / ".cache" / "mamlpp_jax"
    assert cache.cache_folder("~/data") == tmp_path / "h" / "data"
    assert cache.cache_folder("/elsewhere").as_posix() == "/elsewhere"


def test_one_process_makes_what_others_wait_for(tmp_path, caplog):
    """Threads stand for processes: the lock belongs to the open file."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def make():
        calls.append(1)
        begun.set()
        assert go_on.wait(60)
        return toy_dataset(side=8)

    with (
        caplog.at_level("INFO", "absl"),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(cache.load_or_make, tmp_path, KEY, make)
        assert begun.wait(60)
        others = [pool.submit(cache.load_or_make, tmp_path, KEY, make) for _ in range(2)]
        deadline = time.monotonic() + 60
        while caplog.text.count("waiting for process") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
        assert all(same(done.result(60), toy_dataset(side=8)) for done in (first, *others))
    assert len(calls) == 1
    assert f"waiting for process {os.getpid()} on host" in caplog.text


def test_unfinished_files_of_a_killed_process_are_removed(maker):
    maker.folder.mkdir()
    left = maker.folder / f".{FILE}.{32 * 'a'}.tmp"
    others = [maker.folder / f".toy-4px-v3.npz.{32 * 'a'}.tmp", maker.folder / f".{FILE}.mine.tmp"]
    for path in (left, *others):
        path.write_bytes(b"half")
    maker.load()
    assert not left.exists()
    assert all(path.exists() for path in others)  # another process may be writing them
    assert maker.count == 1
