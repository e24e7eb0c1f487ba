"""Small copies of every data source, in every form people have it in, for tests."""

import csv
import io
import pickle
import types
import zipfile

import numpy as np
from PIL import Image

from mamlpp_jax.data.sources import mini_imagenet_files

MINI_CLASSES = {"train": 4, "val": 2, "test": 3}
MINI_IMAGES = 6


def shrink_mini_imagenet(monkeypatch):
    """Lets mini-ImageNet have nine classes of six pictures."""
    monkeypatch.setattr(mini_imagenet_files, "CLASSES", MINI_CLASSES)
    monkeypatch.setattr(mini_imagenet_files, "IMAGES_PER_CLASS", MINI_IMAGES)


def data_config(tmp_path, name, **changes):
    """A `data` configuration; paths may be given as such."""
    fields = {
        "name": name,
        "image_size": 16,
        "channels": 0,
        "tfds_dir": "",
        "manual_dir": "",
        "cache_dir": tmp_path / "cache",
        "seed": 0,
        "train_classes": 0,
        "val_classes": 0,
        "test_classes": 0,
        "split_fractions": "0.5,0.25,0.25",
        "split_file": "",
    }
    fields |= changes
    return types.SimpleNamespace(
        **{k: v if isinstance(v, int) else str(v) for k, v in fields.items()}
    )


def mini_pixels(split, label, number, size=16):
    """One picture of the small mini-ImageNet."""
    seed = [("train", "val", "test").index(split), label, number]
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def mini_class(split, label):
    return f"n{('train', 'val', 'test').index(split)}{label:07d}"


def mini_pictures():
    """Yields (split, class, file name, pixels)."""
    for split, count in MINI_CLASSES.items():
        for label in range(count):
            for number in range(MINI_IMAGES):
                name = mini_class(split, label)
                yield split, name, f"{name}{number:08d}.png", mini_pixels(split, label, number)


def png(pixels, **options):
    """Encoded pixels, [H, W] or [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, format="png", **options)
    return file.getvalue()


def write_csvs(folder):
    """Ravi & Larochelle's three files."""
    for split in MINI_CLASSES:
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            writer.writerows([name, label] for s, label, name, _ in mini_pictures() if s == split)


def mini_zips(folder):
    """Form (a) with two archives."""
    folder.mkdir(parents=True)
    write_csvs(folder)
    with (
        zipfile.ZipFile(folder / "images_a.zip", "w") as first,
        zipfile.ZipFile(folder / "images_b.zip", "w") as second,
    ):
        for number, (_, _, name, pixels) in enumerate(mini_pictures()):
            (first, second)[number % 2].writestr(f"images/{name}", png(pixels))
    return folder


def mini_images(folder):
    """Form (a) with a folder."""
    (folder / "images").mkdir(parents=True)
    write_csvs(folder)
    for _, _, name, pixels in mini_pictures():
        (folder / "images" / name).write_bytes(png(pixels))
    return folder


def mini_folders(folder):
    """Form (b)."""
    for split, label, name, pixels in mini_pictures():
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        (folder / split / label / name).write_bytes(png(pixels))
    return folder


def mini_pickles(folder, protocol=2):
    """Form (c)."""
    folder.mkdir(parents=True)
    for split in MINI_CLASSES:
        mine = [(label, pixels) for s, label, _, pixels in mini_pictures() if s == split]
        rows = {}
        for row, (label, _) in enumerate(mine):
            rows.setdefault(label, []).append(row)
        content = {"image_data": np.stack([pixels for _, pixels in mine]), "class_dict": rows}
        path = folder / f"mini-imagenet-cache-{split}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


MINI_FORMS = {
    "zips": mini_zips,
    "images": mini_images,
    "folders": mini_folders,
    "pickles": mini_pickles,
}


def own_images(folder, classes=8, splits=None, mode="RGB", size=(20, 16)):
    """One's own images; class i has 4 + i of them, in the split that `splits` cycles through."""
    rng = np.random.default_rng(1)
    for label in range(classes):
        parent = folder / splits[label % len(splits)] if splits else folder
        path = parent / f"class {label}"
        path.mkdir(parents=True)
        for number in range(4 + label):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(path / f"{number:02d}.png")
    return folder


def small_tfds(root, name="small_shapes", classes=8, small=False):
    """Prepares a TFDS data set with a builder of the test's own, without TensorFlow; returns its root."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(2)
    names = [f"shape{label}" for label in reversed(range(classes))]

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(None, None, 3)),
                    "kind": tfds.features.ClassLabel(names=names),
                }
            ),
            supervised_keys=("picture", "kind"),
        )

    def examples(count):
        for label, kind in enumerate(names):
            for number in range(count + label):
                pixels = rng.integers(0, 256, (18, 16, 3), dtype=np.uint8)
                yield f"{kind}-{number}", {"picture": png(pixels), "kind": kind}

    # The name may come up in several tests.
    with tfds.core.registered.skip_registration():
        builder = type(
            "".join(part.capitalize() for part in name.split("_")),
            (tfds.core.GeneratorBasedBuilder,),
            {
                "__module__": __name__,
                "VERSION": tfds.core.Version("1.0.0"),
                "_info": info,
                "_split_generators": lambda self, _: {
                    "train": examples(3),
                    "test": examples(1),
                    **({"small": examples(1)} if small else {}),
                },
                "_generate_examples": lambda self: iter(()),
            },
        )
    tfds.disable_progress_bar()
    builder(data_dir=root).download_and_prepare(file_format="array_record")
    return root
