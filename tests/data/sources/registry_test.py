"""The contract of every data source: what it gives can be trained on, and is the same every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.episodes import TaskShape, make_draw, make_source
from mamlpp_jax.data.host_episodes import make_host_source
from mamlpp_jax.data.sources import glyphs, omniglot, registry
from mamlpp_jax.data.splits import split_dataset
from tests.data.sources import omniglot_test
from tests.helpers import small_sources

WAY, SHOT, QUERY = 2, 2, 1


def _omniglot(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "NUM_CLASSES", 3)
    small = [a._replace(num_classes=len(omniglot_test.CLASSES[a.file])) for a in omniglot.ARCHIVES]
    monkeypatch.setattr(omniglot, "ARCHIVES", tuple(small))
    for file in omniglot_test.CLASSES:
        omniglot_test.write_archive(tmp_path / "manual", file, omniglot_test.drawings(file))
    return small_sources.data_config(
        tmp_path,
        "omniglot",
        manual_dir=tmp_path / "manual",
        train_classes=1,
        val_classes=1,
        test_classes=1,
    )


def _mini(form):
    def make(tmp_path, monkeypatch):
        small_sources.shrink_mini_imagenet(monkeypatch)
        folder = small_sources.MINI_FORMS[form](tmp_path / "manual")
        return small_sources.data_config(tmp_path, "mini_imagenet", manual_dir=folder)

    return make


def _own(**options):
    def make(tmp_path, monkeypatch):
        folder = small_sources.own_images(tmp_path / "manual", **options)
        return small_sources.data_config(tmp_path, "image_folder", manual_dir=folder)

    return make


def _glyphs(tmp_path, monkeypatch):
    letters = range(ord("A"), ord("I"))
    monkeypatch.setattr(glyphs, "build", lambda size: glyphs.draw(letters, size))
    return small_sources.data_config(tmp_path, "glyphs")


SOURCES = {
    "glyphs": _glyphs,
    "omniglot": _omniglot,
    **{f"mini_imagenet, {form}": _mini(form) for form in small_sources.MINI_FORMS},
    "image_folder": _own(),
    "image_folder, splits": _own(splits=("train", "train", "val", "test")),
    "image_folder, grey": _own(mode="L"),
    "tfds": lambda tmp_path, _: small_sources.data_config(
        tmp_path, "tfds:small_shapes", tfds_dir=small_sources.small_tfds(tmp_path / "tfds_root")
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_contract(name, tmp_path, monkeypatch):
    config = SOURCES[name](tmp_path, monkeypatch)
    dataset = registry.load_dataset(config)

    # Dtype, shape, order.
    assert dataset.images.dtype == np.uint8
    assert dataset.images.shape[1:3] == (16, 16)
    assert dataset.images.shape[3] == (
        1 if name.split(",")[0] in ("glyphs", "omniglot") or "grey" in name else 3
    )
    assert list(dataset.class_names) == sorted(set(dataset.class_names))
    if dataset.name.startswith(("image_folder", "tfds")):
        assert len(set(dataset.class_sizes.tolist())) > 1  # classes may differ in size

    # The cached copy is the data set; so is what the source gives when it is read again.
    again = registry.load_dataset(config)
    config.cache_dir = str(tmp_path / "other")
    for other in (again, registry.load_dataset(config)):
        np.testing.assert_array_equal(other.images, dataset.images)
        assert other.class_names == dataset.class_names
        assert other.class_splits == dataset.class_splits
        np.testing.assert_array_equal(other.class_sizes, dataset.class_sizes)

    # Splits share no class, and a seed gives the same ones.
    splits = split_dataset(dataset, config)
    for split, members in split_dataset(dataset, config).items():
        np.testing.assert_array_equal(members, splits[split])
    everything = np.concatenate([splits[split] for split in SPLITS])
    assert len(set(everything.tolist())) == len(everything)

    _check_episodes(dataset, splits["train"])


def _check_episodes(dataset, classes):
    """Host and device draw the same tasks, whose parts do not overlap."""
    way = min(WAY, len(classes))
    shape = TaskShape(way, SHOT, QUERY)
    largest = int(dataset.class_sizes.max())
    key = jax.random.key(0, impl="threefry2x32")
    device = make_source(dataset, classes, jnp.asarray(dataset.images), key)
    host = make_host_source(dataset, classes, key, shape)
    draw, tasks = jax.jit(make_draw(shape, largest)), jnp.arange(3, dtype=jnp.int32)
    batch = host.batch(range(1, 2), range(3))
    episodes = draw(device, jnp.int32(1), tasks)
    for other in (draw(device, jnp.int32(1), tasks), draw(batch, jnp.int32(1), tasks)):
        jax.tree.map(np.testing.assert_array_equal, episodes, other)
    for labels, each in ((episodes.support_labels, SHOT), (episodes.query_labels, QUERY)):
        assert labels.dtype == jnp.int32
        np.testing.assert_array_equal(labels, np.tile(np.repeat(np.arange(way), each), (3, 1)))
    assert episodes.support_images.dtype == jnp.float32
    rows = np.asarray(jax.vmap(lambda task: _rows(device, task, shape, largest))(tasks))
    home = np.repeat(np.arange(dataset.num_classes), dataset.class_sizes)
    for task in rows:
        assert len(set(task.ravel().tolist())) == task.size  # none in both support and query
        assert (home[task] == home[task[:, :1]]).all()  # a row is of one class
        assert set(home[task[:, 0]]) <= set(classes.tolist())


def _rows(source, task, shape, largest):
    from mamlpp_jax.data.episodes import draw_indices, task_key

    return draw_indices(
        task_key(source.key, jnp.int32(1), task), source.starts, source.sizes, shape, largest
    )[0]


def test_every_source_is_tested():
    tested = {name.split(",")[0] for name in SOURCES}
    assert tested == {name.split(":")[0] for name in registry.known_names()}
