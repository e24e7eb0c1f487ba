"""Small copies of every data source, in every form people have it in, for tests."""

import csv
import io
import pickle
import types
import zipfile

import numpy as np
from PIL import Image

from mamlpp_jax.data.dataset import Dataset, fingerprint
from mamlpp_jax.data.sources import omniglot, published

MINI_CLASSES = {"train": 4, "val": 2, "test": 3}
MINI_IMAGES = 6


def shrink_mini_imagenet(monkeypatch):
    """Lets mini-ImageNet have nine classes of six images."""
    shrink_published(monkeypatch, "mini_imagenet", MINI_CLASSES, MINI_IMAGES)


def shrink_published(monkeypatch, name, classes, per_class):
    """Lets a published data set have so many classes per split, of so many images each."""
    small = published.PUBLISHED[name]._replace(
        classes=classes, per_class=per_class, images=sum(classes.values()) * per_class
    )
    monkeypatch.setitem(published.PUBLISHED, name, small)


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
        "smallest_class": 1,
    }
    fields |= changes
    return types.SimpleNamespace(
        **{k: v if isinstance(v, int) else str(v) for k, v in fields.items()}
    )


def mini_pixels(split, label, number, size=16):
    """One image of the small mini-ImageNet."""
    seed = [("train", "val", "test").index(split), label, number]
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def mini_class(split, label):
    return f"n{('train', 'val', 'test').index(split)}{label:07d}"


def mini_examples():
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
            writer.writerows([name, label] for s, label, name, _ in mini_examples() if s == split)


def mini_zips(folder):
    """Form (a) with two archives."""
    folder.mkdir(parents=True)
    write_csvs(folder)
    with (
        zipfile.ZipFile(folder / "images_a.zip", "w") as first,
        zipfile.ZipFile(folder / "images_b.zip", "w") as second,
    ):
        for number, (_, _, name, pixels) in enumerate(mini_examples()):
            (first, second)[number % 2].writestr(f"images/{name}", png(pixels))
    return folder


def mini_images(folder):
    """Form (a) with a folder."""
    (folder / "images").mkdir(parents=True)
    write_csvs(folder)
    for _, _, name, pixels in mini_examples():
        (folder / "images" / name).write_bytes(png(pixels))
    return folder


def mini_folders(folder):
    """Form (b)."""
    for split, label, name, pixels in mini_examples():
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        (folder / split / label / name).write_bytes(png(pixels))
    return folder


def mini_pickles(folder, protocol=2):
    """Form (c)."""
    folder.mkdir(parents=True)
    for split in MINI_CLASSES:
        mine = [(label, pixels) for s, label, _, pixels in mini_examples() if s == split]
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


def read_mini_imagenet(folder):
    """Decodes every image of a mini-ImageNet folder."""
    layout = published.published_layout("mini_imagenet", folder)
    for split in layout.listing:
        for _, loaders in layout.read(split):
            for loader in loaders:
                loader()


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


def class_folders(folder, *names, images=5):
    """A folder per class with images of their own."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            (folder / name / f"{number}.png").write_bytes(png(mini_pixels("train", label, number)))
    return folder


def labelled_pickles(folder, pattern="CIFAR_FS_{}.pickle"):
    """A pickle per split with two numbered classes of three images, as CIFAR-FS and FC100 are passed on."""
    folder.mkdir(parents=True)
    for split in MINI_CLASSES:
        images = [mini_pixels(split, number % 2, number) for number in range(6)]
        content = {"data": np.stack(images), "labels": [7, 8] * 3}
        (folder / pattern.format(split)).write_bytes(pickle.dumps(content))
    return folder


def encoded_pickles(folder, column=False):
    """A pickle per split of encoded images, and one of their labels, as tieredImageNet was published."""
    folder.mkdir(parents=True)
    for split in MINI_CLASSES:
        images = [mini_pixels(split, number % 2, number) for number in range(6)]
        encoded = [np.frombuffer(png(pixels), np.uint8) for pixels in images]
        encoded = [array[:, None] for array in encoded] if column else encoded
        labels = {"label_specific": np.array([0, 1] * 3), "label_specific_str": ["cat", "dog"]}
        (folder / f"{split}_images_png.pkl").write_bytes(pickle.dumps(encoded))
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels))
    return folder


def prepare_tfds(root, name, features, splits, supervised=None):
    """Prepares a TFDS data set with a builder made for it, without TensorFlow; returns its root.

    Args:
        root: TFDS root.
        name: of the data set, in snake case.
        features: from `tfds.features` to a dictionary of features.
        splits: examples by split.
        supervised: names of image and label, or None.
    """
    import tensorflow_datasets as tfds

    def info(self):
        dictionary = tfds.features.FeaturesDict(features(tfds.features))
        return tfds.core.DatasetInfo(builder=self, features=dictionary, supervised_keys=supervised)

    # Several tests may prepare a data set of the same name.
    with tfds.core.registered.skip_registration():
        builder = type(
            "".join(part.capitalize() for part in name.split("_")),
            (tfds.core.GeneratorBasedBuilder,),
            {
                "__module__": __name__,
                "VERSION": tfds.core.Version("1.0.0"),
                "_info": info,
                "_split_generators": lambda self, _: {
                    split: enumerate(examples) for split, examples in splits.items()
                },
                "_generate_examples": lambda self: iter(()),
            },
        )
    tfds.disable_progress_bar()
    builder(data_dir=root).download_and_prepare(file_format="array_record")
    return root


def small_tfds(root, name="small_shapes", classes=8, small=False):
    """Prepares a data set of random images: label l has 3 + l in train and 1 + l in test."""
    rng = np.random.default_rng(2)
    names = [f"shape{label}" for label in reversed(range(classes))]

    def features(tfds_features):
        return {
            "photo": tfds_features.Image(shape=(None, None, 3)),
            "kind": tfds_features.ClassLabel(names=names),
        }

    def examples(count):
        for label, name in enumerate(names):
            for _ in range(count + label):
                pixels = rng.integers(0, 256, (18, 16, 3), dtype=np.uint8)
                yield {"photo": png(pixels), "kind": name}

    splits = {"train": examples(3), "test": examples(1)}
    if small:
        splits["small"] = examples(1)
    return prepare_tfds(root, name, features, splits, supervised=("photo", "kind"))


# In the first archive the alphabets are not in the order of the drawings' numbers, as in Omniglot.
OMNIGLOT_CLASSES = {
    "images_background.zip": ["Zeta_(old)/character01", "Alpha_of_the/character02"],
    "images_evaluation.zip": ["Greek/character10"],
}


def shrink_omniglot(monkeypatch):
    """Lets Omniglot have three characters."""
    small = [a._replace(num_classes=len(OMNIGLOT_CLASSES[a.file])) for a in omniglot.ARCHIVES]
    monkeypatch.setattr(omniglot, "NUM_CLASSES", 3)
    monkeypatch.setattr(omniglot, "ARCHIVES", tuple(small))


def omniglot_drawing(number, side=105):
    """A 1-bit PNG with a few black pixels that depend on the number."""
    pixels = np.random.Generator(np.random.PCG64(number)).integers(0, 12, (side, side)) > 0
    return png(pixels)


def omniglot_members(file):
    """The members of one small archive: encoded drawings by name."""
    members = {}
    first = 1 if file == "images_background.zip" else 3
    for number, class_name in enumerate(OMNIGLOT_CLASSES[file], start=first):
        for person in range(1, 21):
            name = f"{file[:-4]}/{class_name}/{number:04d}_{person:02d}.png"
            members[name] = omniglot_drawing(100 * number + person)
    return members


def omniglot_archive(folder, file, members=None):
    """Writes one small archive, with entries that are no drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr("__MACOSX/images/x/character01/._0001_01.png", b"")
        archive.writestr(f"{file[:-4]}/", b"")
        for name, encoded in (omniglot_members(file) if members is None else members).items():
            archive.writestr(name, encoded)


def omniglot_archives(folder):
    """Writes both small archives."""
    for file in OMNIGLOT_CLASSES:
        omniglot_archive(folder, file)
    return folder


def omniglot_tfds(root, replaced=None):
    """Prepares the small Omniglot under TFDS's name and labels; `replaced` drawings by member name."""
    labels = {}
    for classes in OMNIGLOT_CLASSES.values():
        for class_name in classes:
            alphabet, number = class_name.split("/character")
            labels[class_name] = f"{alphabet}_{int(number) - 1}"  # TFDS counts from 0

    def features(tfds_features):
        return {
            "image": tfds_features.Image(shape=(105, 105, 3), encoding_format="png"),
            "label": tfds_features.ClassLabel(names=list(labels.values())),
        }

    splits = {
        split: [
            {"image": encoded, "label": labels["/".join(name.split("/")[1:3])]}
            for name, encoded in (omniglot_members(file) | (replaced or {})).items()
            if name.startswith(file[:-4])
        ]
        for split, file in zip(("train", "test"), OMNIGLOT_CLASSES, strict=True)
    }
    return prepare_tfds(root, "omniglot", features, splits)


def toy_dataset(name="toy", sizes=(2, 3), side=4, fill=0):
    """A data set of consecutive pixel values."""
    pixels = np.arange(sum(sizes) * side * side, dtype=np.int64) + fill
    return Dataset(
        name=name,
        images=(pixels % 256).astype(np.uint8).reshape(-1, side, side, 1),
        class_names=tuple(f"class{i:03d}" for i in range(len(sizes))),
        class_sizes=np.array(sizes, np.int32),
    )


def same(a, b):
    """Whether two data sets are equal, their names included."""
    return a.name == b.name and fingerprint(a) == fingerprint(b)


DATASET_DAMAGES = ("truncated", "empty", "flipped", "text", "array", "other", "future", "pickled")


def damage_dataset_file(path, damage):
    """Damages the file of `toy_dataset(side=8)`; "folder" puts a folder in its place."""
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        # Inside the pixels, where only the checksum can tell.
        position = content.index(toy_dataset(side=8).images.tobytes()) + 5
        path.write_bytes(content[:position] + b"\xaa" + content[position + 1 :])
    elif damage == "text":
        path.write_text("not a data set")
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "other":
        with path.open("wb") as file:
            np.savez(file, images=toy_dataset().images)
    elif damage == "future":
        with np.load(path) as archive:
            arrays = dict(archive)
        with path.open("wb") as file:
            np.savez(file, **(arrays | {"format": np.int32(99)}))
    elif damage == "pickled":
        with path.open("wb") as file:
            np.savez(file, format=np.array([{}], dtype=object))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
