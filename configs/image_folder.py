"""Your own images: copy this file, or set its fields on the command line. configs/own_images.py chooses for you.

    python -m mamlpp_jax.data --config=configs/image_folder.py --config.data.manual_dir=DIR --contact_sheet=sheet.png
    python -m mamlpp_jax.main --config=configs/image_folder.py:way=5,shot=1 --config.data.manual_dir=DIR

DIR has a folder per class, named after it, with its images (png, jpg, gif, bmp, tif, webp, pgm or ppm). Classes may
have different numbers of images; each needs at least shot + query, and data.smallest_class leaves smaller ones out.
Class folders may lie deeper, below an unpacked archive's folder, images/, or in groups. Either

    DIR/<class>/*.jpg                     classes are split at random: 64 % train, 16 % val, 20 % test, with `way`
                                          classes in each split where there are enough,
    DIR/{train,val,test}/<class>/*.jpg    you split them; no class may be in two splits (validation, base, novel ...
                                          are understood too), or
    DIR/{train,val,test}.csv              lists of filename,label, with the images in any folder of DIR; or
                                          {train,val,test}.txt, a class per line, beside class folders.

Each split needs at least `way` classes. Arguments: way, shot, query (query images per class), method and seed.
"""

from ml_collections import ConfigDict

from mamlpp_jax.config import apply_method, default_config, parse_argument


def get_config(argument: str | None = None) -> ConfigDict:
    """The configuration of one experiment; see the module's docstring."""
    chosen = parse_argument(
        argument, {"way": 5, "shot": 1, "query": 5, "method": "maml++", "seed": 0}
    )
    config = default_config()
    config.experiment = f"image_folder-{chosen['way']}way-{chosen['shot']}shot"
    config.seed = chosen["seed"]

    config.data.name = "image_folder"
    config.data.manual_dir = ""  # DIR
    config.data.image_size = 84  # images are resized to a square of this side, in pixels
    config.data.channels = 3  # 1 for grey
    config.data.normalize = "imagenet"  # for photographs; "none" for grey images
    config.data.rotations = False  # True: every 90-degree rotation of a class is one more class
    # 0: by the folders train, val and test, or else by fractions; numbers of classes work too.
    config.data.train_classes = config.data.val_classes = config.data.test_classes = 0
    config.data.split_fractions = ""  # or, exactly, such as "0.64,0.16,0.2"
    config.data.split_file = ""  # or a CSV file with the header "class,split" and a line per class

    config.task.way, config.task.shot, config.task.query = (
        chosen["way"],
        chosen["shot"],
        chosen["query"],
    )
    # As for mini-ImageNet, with fewer epochs.
    config.model.filters = 48
    config.inner.learning_rate = 0.01
    config.train.epochs = 30
    config.train.tasks_per_step = 4
    config.train.first_order_epochs = 10
    config.train.multi_step_epochs = 10
    config.norm.eval_statistics = "batch,support"
    apply_method(config, chosen["method"])
    return config
