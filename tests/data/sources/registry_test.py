"""Every data source gives a data set that can be trained on, and the same one every time."""

import subprocess
import sys

import numpy as np
import pytest

from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.cache import CacheKey
from mamlpp_jax.data.dataset import SPLITS, fingerprint
from mamlpp_jax.data.readers.tfds_tools import MODULES
from mamlpp_jax.data.sources import glyphs, registry
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.errors import ConfigError, DataError, MamlppError
from tests.helpers import small_sources
from tests.helpers.refusals import refused
from tests.helpers.small_sources import data_config


def _omniglot(tmp_path, monkeypatch):
    small_sources.shrink_omniglot(monkeypatch)
    folder = small_sources.omniglot_archives(tmp_path / "manual")
    counts = {f"{split}_classes": 1 for split in SPLITS}
    return data_config(tmp_path, "omniglot", manual_dir=folder, **counts)


def _mini(form):
    def make(tmp_path, monkeypatch):
        small_sources.shrink_mini_imagenet(monkeypatch)
        folder = small_sources.MINI_FORMS[form](tmp_path / "manual")
        return data_config(tmp_path, "mini_imagenet", manual_dir=folder)

    return make


def _cifar(tmp_path, monkeypatch):
    small_sources.shrink_published(monkeypatch, "cifar_fs", {"train": 2, "val": 1, "test": 1}, 5)
    folder = small_sources.class_folders(tmp_path / "manual", "apple", "bee", "beaver", "whale")
    return data_config(tmp_path, "cifar_fs", manual_dir=folder)


def _fc100(tmp_path, monkeypatch):
    small_sources.shrink_published(monkeypatch, "fc100", dict.fromkeys(SPLITS, 2), 3)
    folder = small_sources.labelled_pickles(tmp_path / "manual", "FC100_{}.pickle")
    return data_config(tmp_path, "fc100", manual_dir=folder)


def _cub(tmp_path, monkeypatch):
    small_sources.shrink_published(monkeypatch, "cub", {"train": 4, "val": 2, "test": 2}, 5)
    names = (f"{number:03d}.Bird" for number in range(8))
    root = tmp_path / "manual" / "CUB_200_2011"
    small_sources.class_folders(root / "images", *names)
    (root / "attributes").mkdir()
    return data_config(tmp_path, "cub", manual_dir=tmp_path / "manual")


def _tiered(tmp_path, monkeypatch):
    small_sources.shrink_published(monkeypatch, "tiered_imagenet", dict.fromkeys(SPLITS, 2), 3)
    folder = small_sources.encoded_pickles(tmp_path / "manual")
    return data_config(tmp_path, "tiered_imagenet", manual_dir=folder)


def _own(**options):
    def make(tmp_path, _):
        folder = small_sources.own_images(tmp_path / "manual", **options)
        return data_config(tmp_path, "image_folder", manual_dir=folder)

    return make


def _glyphs(tmp_path, monkeypatch):
    letters = range(ord("A"), ord("I"))
    monkeypatch.setattr(glyphs, "build", lambda config: glyphs.render(letters, config.image_size))
    return data_config(tmp_path, "glyphs")


def _tfds(tmp_path, _):
    root = small_sources.small_tfds(tmp_path / "tfds_root")
    return data_config(tmp_path, "tfds:small_shapes", tfds_dir=root)


SOURCES = {
    "glyphs": _glyphs,
    "omniglot": _omniglot,
    **{f"mini_imagenet, {form}": _mini(form) for form in small_sources.MINI_FORMS},
    "cifar_fs": _cifar,
    "fc100": _fc100,
    "cub": _cub,
    "tiered_imagenet": _tiered,
    "image_folder": _own(),
    "image_folder, splits": _own(splits=("train", "train", "val", "test")),
    "image_folder, grey": _own(mode="L"),
    "tfds": _tfds,
}


def without_tfds(monkeypatch):
    """The modules of the extra `tfds` cannot be imported."""
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("name", SOURCES)
def test_the_contract(name, tmp_path, monkeypatch):
    config = SOURCES[name](tmp_path, monkeypatch)
    if name != "tfds":
        without_tfds(monkeypatch)
    dataset = registry.load_dataset(config)

    assert dataset.name == config.name
    grey = name.split(",")[0] in ("glyphs", "omniglot") or "grey" in name
    assert dataset.images.shape[1:] == (16, 16, 1 if grey else 3)
    assert registry.known_channels(config) in (0, dataset.images.shape[3])
    if name.startswith(("image_folder", "tfds")):
        assert len(set(dataset.class_sizes.tolist())) > 1  # classes may differ in size

    # The cached copy is the data set; so is what the source gives when it is read again.
    again = registry.load_dataset(config)
    config.cache_dir = str(tmp_path / "other")
    for other in (again, registry.load_dataset(config)):
        assert fingerprint(other) == fingerprint(dataset)

    splits = split_dataset(dataset, config)
    everything = np.concatenate([splits[split] for split in SPLITS])
    assert len(set(everything.tolist())) == len(everything)


def test_every_source_is_tested():
    tested = {name.split(",")[0] for name in SOURCES}
    assert tested == {name.split(":")[0] for name in registry.known_names()}
    assert list(registry.known_names()) == sorted(registry.known_names())


def test_channels_are_known_before_the_data(tmp_path):
    wanted = {"omniglot": 1, "glyphs": 1, "mini_imagenet": 3, "image_folder": 0, "tfds:mnist": 0}
    for name, channels in wanted.items():
        assert registry.known_channels(data_config(tmp_path, name)) == channels
    assert registry.known_channels(data_config(tmp_path, "image_folder", channels=3)) == 3


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.name is 'omniglott'.*glyphs.*omniglot"):
        registry.load_dataset(data_config(tmp_path, "omniglott"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["omniglot", "tfds:birds"])
def test_without_tfds_a_prepared_data_set_is_refused(tmp_path, monkeypatch, name):
    folder = tmp_path / name.removeprefix("tfds:") / "1.0.0"
    folder.mkdir(parents=True)
    for file in ("dataset_info.json", "features.json"):
        (folder / file).write_text("{}")
    without_tfds(monkeypatch)
    with pytest.raises(DataError, match=r"pip install 'mamlpp_jax\[tfds\]'\.$"):
        registry.load_dataset(data_config(tmp_path, name, tfds_dir=tmp_path))


@pytest.mark.parametrize("size", [0, -28, "28.0", "28"])
def test_a_bad_size_is_refused(tmp_path, size):
    with pytest.raises(ConfigError, match=r"data\.image_size is"):
        registry.load_dataset(data_config(tmp_path, "glyphs", image_size=size))


def test_reading_the_cache_takes_numpy_alone(tmp_path):
    (tmp_path / "cache").mkdir()
    file = tmp_path / "cache" / CacheKey("omniglot", "", 4, 1).file_name
    dataset_lib.save(small_sources.toy_dataset(name="omniglot"), file)
    script = f"""
import sys, types
for name in ("tensorflow_datasets", "tensorflow", "array_record", "pooch", "matplotlib", "PIL", "jax"):
    sys.modules[name] = None  # importing it now fails
from mamlpp_jax.data.sources.registry import load_dataset
data = load_dataset(types.SimpleNamespace(
    name="omniglot", image_size=4, tfds_dir="", manual_dir="", cache_dir={str(tmp_path / "cache")!r}, smallest_class=1
))
print(data.num_classes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize(
    ("name", "field", "read"),
    [
        ("glyphs", "manual_dir", "read from no folder"),
        ("image_folder", "tfds_dir", r"read from data\.manual_dir;"),
        ("mini_imagenet", "tfds_dir", r"read from data\.manual_dir;"),
        ("tfds:mnist", "manual_dir", r"read from data\.tfds_dir;"),
    ],
)
def test_a_folder_that_would_not_be_read_is_refused(tmp_path, name, field, read):
    config = data_config(tmp_path, name, **{field: tmp_path})
    with refused(tmp_path, rf"data\.{field} is .* but {name} is {read}"):
        registry.load_dataset(config)


@pytest.mark.parametrize("field", ["manual_dir", "tfds_dir", "cache_dir"])
@pytest.mark.parametrize("name", ["omniglot", "mini_imagenet", "image_folder", "tfds:mnist"])
def test_paths_that_cannot_be_are_named(tmp_path, name, field):
    changes = {field: str(tmp_path / ("x" * 300))}
    with pytest.raises(MamlppError, match=r"xxx|manual_dir|tfds_dir"):
        registry.load_dataset(data_config(tmp_path, name, **changes))


def test_small_classes_are_left_out_by_a_field(tmp_path, caplog):
    folder = small_sources.own_images(tmp_path / "manual", splits=SPLITS)  # 4 to 11 images
    config = data_config(tmp_path, "image_folder", manual_dir=folder, smallest_class=7)
    data = registry.load_dataset(config)
    assert data.class_names == tuple(f"class {i}" for i in range(3, 8))
    assert data.class_splits == ("train", "val", "test", "train", "val")
    config.smallest_class = 1
    whole = registry.load_dataset(config)
    np.testing.assert_array_equal(data.images, whole.images[4 + 5 + 6 :])
    assert (
        "3 classes have fewer than data.smallest_class=7 images and are left out: class 0, class 1"
        in caplog.text
    )
    config.smallest_class = 12
    with pytest.raises(ConfigError, match=r"All 8 classes have fewer.* use at most 11"):
        registry.load_dataset(config)
