"""Prepared TFDS data sets, made by the test's own builder without TensorFlow."""

import shutil

import numpy as np
import pytest

from mamlpp_jax.data.sources import registry
from mamlpp_jax.errors import ConfigError, DataError
from tests.helpers import small_sources


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    # The third split must not count: such ones often repeat images of the others.
    return small_sources.small_tfds(tmp_path_factory.mktemp("tfds"), small=True)


def read(tmp_path, root, name="tfds:small_shapes", **changes):
    return registry.load_dataset(
        small_sources.data_config(tmp_path, name, tfds_dir=root, **changes)
    )


def test_all_splits_are_put_together_by_label(tmp_path, root):
    data = read(tmp_path, root)
    assert data.name == "tfds:small_shapes"
    assert data.class_names == tuple(f"shape{i}" for i in range(8))
    # Label l of the builder, shape(7 - l), has 3 + l images in one split and 1 + l in the other.
    assert data.class_sizes.tolist() == [4 + 2 * (7 - i) for i in range(8)]
    assert data.images.shape[1:] == (16, 16, 3)
    assert len(np.unique(data.images.reshape(len(data.images), -1), axis=0)) == len(data.images)


def test_a_version_may_be_named_and_the_cache_belongs_to_the_preparation(tmp_path, root):
    data = read(tmp_path, root, "tfds:small_shapes:1.0.0")
    assert data.num_classes == 8
    cached = [path.name for path in (tmp_path / "cache").glob("*.npz")]
    assert len(cached) == 1
    assert cached[0].startswith("tfds-small_shapes-1.0.0-")
    other = small_sources.small_tfds(tmp_path / "other", classes=3)
    assert read(tmp_path, other, "tfds:small_shapes:1.0.0").num_classes == 3


def test_renamed_classes_are_read_again(tmp_path, root):
    renamed = tmp_path / "renamed"
    shutil.copytree(root, renamed)
    before = read(tmp_path, renamed).class_names
    (labels,) = renamed.rglob("*.labels.txt")
    labels.write_text(labels.read_text().replace("shape0", "circle"))
    assert "circle" in read(tmp_path, renamed).class_names
    assert "circle" not in before


def test_labels_need_not_be_the_supervised_pair_and_may_be_missing(tmp_path, caplog):
    def features(tfds):
        return {
            "photo": tfds.Image(shape=(None, None, 3)),
            "kind": tfds.ClassLabel(names=["a", "b"]),
            "note": tfds.Text(),
        }

    image = small_sources.png(np.zeros((8, 8, 3), np.uint8))
    labels = ("b", "a", -1, "b")
    examples = [{"photo": image, "kind": kind, "note": "x"} for kind in labels]
    root = small_sources.prepare_tfds(tmp_path / "tfds", "noted", features, {"full": examples})
    assert read(tmp_path, root, "tfds:noted").class_sizes.tolist() == [1, 2]
    assert "noted has 1 images without a label" in caplog.text


def test_a_data_set_of_two_images_is_refused(tmp_path):
    def features(tfds):
        image = tfds.Image(shape=(None, None, 3))
        return {"left": image, "right": image, "kind": tfds.ClassLabel(names=["a"])}

    image = small_sources.png(np.zeros((8, 8, 3), np.uint8))
    examples = [{"left": image, "right": image, "kind": "a"}]
    root = small_sources.prepare_tfds(tmp_path / "tfds", "stereo", features, {"full": examples})
    with pytest.raises(DataError, match=r"features .*left.*one image and one class label"):
        read(tmp_path, root, "tfds:stereo")


def test_grey_on_request(tmp_path, root):
    assert read(tmp_path, root, channels=1).images.shape[-1] == 1


def test_the_default_folder_is_that_of_tfds(tmp_path, root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert read(tmp_path, "").num_classes == 8


@pytest.mark.parametrize("name", ["tfds:", "tfds:../x", "tfds:a/../b", "tfds:a b", "tfds:a:1"])
def test_a_malformed_name_is_refused(tmp_path, root, name):
    with pytest.raises(ConfigError, match=r"data\.name is .*such as tfds:cifar100"):
        read(tmp_path, root, name)


@pytest.mark.parametrize("name", ["tfds:mnist", "tfds:small_shapes:2.0.0", "tfds:small_shapes/big"])
def test_a_missing_preparation_is_refused_with_the_command_to_prepare_it(tmp_path, root, name):
    with pytest.raises(DataError, match=r"data\.tfds_dir: .*download_and_prepare"):
        read(tmp_path, root, name)


def test_a_broken_preparation_is_named(tmp_path):
    root = small_sources.small_tfds(tmp_path / "tfds", classes=3)
    folder = root / "small_shapes" / "1.0.0"
    record = next(folder.glob("*train*record*"))
    content = record.read_bytes()
    record.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"small_shapes/1\.0\.0"):
        read(tmp_path, root)
    record.write_bytes(content)
    (folder / "features.json").write_text("{}")
    with pytest.raises(DataError, match=r"small_shapes/1\.0\.0"):
        read(tmp_path, root)
