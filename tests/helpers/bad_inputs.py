"""Bad inputs by class: a command line and the words that its one paragraph must have."""

import json
import shutil
from typing import NamedTuple

import pytest

from mamlpp_jax.config import rules
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.data import dataset
from tests.helpers import small_sources
from tests.helpers.small_runs import SIZE, patterns


class Bad(NamedTuple):
    """One bad input.

    Attributes:
        command: "main", "data" or "predict".
        line: its arguments; they name files of `per_step_values`.
        words: what must be said, in any order: the field, flag or file, and what is allowed.
        real: whether a real command meets it too, which knows nothing of data sets made smaller for tests.
    """

    command: str
    line: tuple[str, ...]
    words: tuple[str, ...]
    real: bool = True


QUICK = "--config=quickstart"
SMALL = "--config=small.json"


# --- Fields ---------------------------------------------------------------------------------------

# By hand, for each kind of field: a value of another type, and what is said of it.
_OF_ANOTHER_TYPE = {
    int: (("many", "type int"), ("1.5", "type int"), ("", "type int")),
    float: (("fast", "type float"),),
    bool: (("maybe", "type bool"),),
}
# By hand, for each rule: a value that it does not allow, and what is said of it.
_NOT_ALLOWED = {
    rules.OPTIONS: ("-1", "it must be a JSON object"),
    rules.SEED: ("-1", "it must be from 0 to 4294967295"),
    rules.POSITIVE: ("0", "it must be a positive number"),
    rules.DECAY: ("1", "it must be in [0, 1)"),
    rules.CLIP: ("-1", "a positive number, or 0 for no clipping"),
    rules.CHANNELS: ("2", "1 (grey), 3 (colour) or 0"),
    rules.FRACTIONS: ("1,2", "three positive numbers"),
    rules.FOLDER: ("~no-such-user-here/data", "no user of that name has a home folder here"),
    rules.FOLDER_NAME: ("a/b", "letters, digits and _ + - . only"),
}


def _not_allowed(name):
    """A value that a field may not have, and what is said of it; None where every value is allowed."""
    field = FIELDS[name]
    if field.rule.choices:
        return "nonsense", "choose one"
    if field.rule in _NOT_ALLOWED:
        return _NOT_ALLOWED[field.rule]
    if field.rule is rules.ANY:
        return None
    return "-1", "it must be " if isinstance(field.default, float) else "it must be from "


def of_fields():
    """Every field with values of another type and out of range."""
    for name, field in FIELDS.items():
        wrong = [*_OF_ANOTHER_TYPE.get(type(field.default), ())]
        outside = _not_allowed(name)
        for value, said in [*wrong, *([outside] if outside else [])]:
            yield Bad("main", (QUICK, f"--config.{name}={value}"), (f"config.{name} is ", said))


OF_FIELDS_TOGETHER = [
    Bad("main", (QUICK, "--config.method=mamm"), ("config.method is 'mamm'", "maml, maml++")),
    Bad("main", (QUICK, "--config.method=maml+x"), ("config.method is", "Components: msl, da")),
    Bad(
        "main",
        (QUICK, "--config.method=maml"),
        ("config.method is 'maml', which leaves out", "method=maml"),
    ),
    Bad("main", (SMALL, "--config.data.name=omniglott"), ("data.name is", "glyphs, image_folder")),
    Bad("main", (SMALL, "--config.data.name="), ("data.name is ''", "glyphs, image_folder")),
    Bad("main", (QUICK, "--config.trian.epochs=1"), ("config.trian.epochs", "config.train.epochs")),
    Bad("main", (QUICK, "--config.train.epochs.x=1"), ("config.train.epochs.x is not a field",)),
    Bad("main", (QUICK, "--config.train=1"), ("config.train is not a field",)),
    Bad("main", (QUICK, "--config.=1"), ("config. is not a field",)),
    Bad("main", (QUICK, "--config.model.drop_block=0.1"), ("drop_block was removed", "28e0004")),
    Bad(
        "main", (QUICK, "--config.train.final_learning_rate=1"), ("learning_rate is 1.0", "at most")
    ),
    Bad(
        "main",
        (QUICK, "--config.compute.devices=3"),
        ("tasks_per_step is 8", "devices=3", "divisor"),
    ),
    Bad(
        "main",
        (QUICK, "--config.compute.tasks_per_chunk=3"),
        ("tasks_per_chunk is 3", "divide the 8"),
    ),
    Bad("main", (QUICK, "--config.compute.steps_per_dispatch=3"), ("dispatch is 3", "divide")),
    Bad("main", (QUICK, "--config.data.image_size=8"), ("image_size is 8", "at least 16 pixels")),
    Bad("main", (SMALL, "--config.task.way=5"), ("task.way is 5", "val split", "at most 4")),
    Bad("main", (SMALL, "--config.task.shot=9"), ("task.shot", "9 + 1 = 10", "at most 6")),
    Bad("main", (SMALL, "--config.task.query=9"), ("task.query", "1 + 9 = 10", "at most 6")),
    Bad("main", (SMALL, "--config.data.channels=3"), ("data.channels is 3", "images of 1; use 0")),
    Bad("main", (SMALL, "--config.data.normalize=imagenet"), ("normalize is", "grey", "use none")),
    Bad(
        "main",
        (SMALL, "--config.data.train_classes=0"),
        ("data.train_classes is 0", "set all three"),
    ),
    Bad("main", (SMALL, "--config.data.train_classes=99"), ("train_classes=99", "16")),
    Bad(
        "main", (SMALL, "--config.data.split_file=none.csv"), ("data.split_file", "cannot be read")
    ),
]

_HUGE = ("this needs", "of memory or more, but", "It is large because of", "use smaller values")
# Sizes that no machine of today has room for.
OF_SIZES = [
    Bad("main", (SMALL, f"--config.{field}={value}", *more), (*_HUGE, f"config.{field}={value}"))
    for field, value, *more in (
        ("model.filters", 2_000_000_000),
        ("train.inner_steps", 10_000, "--config.data.image_size=1024"),
        (
            "compute.tasks_per_chunk",
            1_048_576,
            "--config.train.tasks_per_step=1048576",
            "--config.data.image_size=1024",
        ),
        ("task.way", 2_000_000_000),
        ("task.shot", 2_000_000_000),
        ("task.query", 2_000_000_000),
        ("evaluation.tasks", 1_048_576, "--config.task.query=1000000"),
    )
]


# --- Flags ----------------------------------------------------------------------------------------

OF_FLAGS = [
    Bad("main", (), ("--config is missing", "--config=configs/quickstart.py")),
    Bad("main", ("--config",), ("--config",)),
    Bad("main", (QUICK, "--config.train.epochs"), ("--config.train.epochs",)),
    Bad("main", ("--config.train.epochs=3",), ("--config.train.epochs", "give --config=FILE")),
    Bad("main", ("--config.train.epochs=3", QUICK), ("--config.train.epochs=3", "before")),
    Bad("main", (QUICK, "--noconfig.train.epochs"), ("noconfig.train.epochs", "true and false")),
    Bad("main", (QUICK, "more"), ("'more' is not a flag", "start with --")),
    Bad("main", (QUICK, "config.seed=3"), ("'config.seed=3' is not a flag",)),
    Bad("main", (QUICK, "--wrkdir=x"), ("wrkdir", "workdir", "--help")),
    Bad("main", (QUICK, "--mode=test"), ("--mode is 'test'", "train, evaluate")),
    Bad("main", (QUICK, "--dry_run=maybe"), ("--dry_run is 'maybe'", "true or false")),
    Bad("main", (QUICK, "--max_minutes=soon"), ("--max_minutes is 'soon'", "at least 0")),
    Bad("main", (QUICK, "--max_minutes=-1"), ("--max_minutes is '-1'", "at least 0")),
    Bad("main", (QUICK, "--max_minutes=nan"), ("--max_minutes is nan", "0 for no limit")),
    Bad("main", (QUICK, "--way=x"), ("--way is 'x'", "a whole number of at least 2")),
    Bad("main", (QUICK, "--shot=0"), ("--shot is '0'", "at least 1")),
    Bad("main", (QUICK, "--query=1.5"), ("--query is '1.5'", "a whole number")),
    Bad("main", (QUICK, "--tasks=1"), ("--tasks is '1'", "at least 2")),
    Bad("main", (QUICK, "--inner_steps=0"), ("--inner_steps is '0'", "at least 1")),
    Bad("main", (QUICK, "--way=3"), ("--way", "evaluation only", "--config.task.way=20")),
    Bad("main", (QUICK, "--data_config=quickstart"), ("--data_config", "evaluation only")),
    Bad("main", (QUICK, "--num_processes=2"), ("--coordinator_address, --process_id", "together")),
    Bad("main", (QUICK, "--num_processes=two"), ("--num_processes is 'two'", "a whole number")),
    Bad("main", (QUICK, "--coordinator_address=a"), ("--num_processes, --process_id missing",)),
    Bad(
        "main",
        (QUICK, "--coordinator_address=a", "--num_processes=1", "--process_id=0"),
        ("--coordinator_address is 'a'", "HOST:PORT"),
    ),
    Bad(
        "main",
        (QUICK, "--coordinator_address=a:1", "--num_processes=2", "--process_id=2"),
        ("--process_id is 2", "from 0 to"),
    ),
    Bad("main", (QUICK, "--flagfile=none.txt"), ("flagfile", "none.txt")),
    Bad("main", (QUICK, "--flagfile=flags.txt"), ("'epocs'", "epochs")),
    Bad("data", (), ("--config is missing", "configs/mini_imagenet.py")),
    Bad("data", (SMALL, "--mode=train"), ("'mode'", "--help")),
    Bad("data", (SMALL, "--contact_sheet"), ("contact_sheet",)),
    Bad("data", (SMALL, "--contact_sheet=sheet"), ("--contact_sheet is 'sheet'", ".png or .pdf")),
    Bad("data", (SMALL, "--contact_sheet=a.gif"), ("--contact_sheet is 'a.gif'", ".png or .pdf")),
    Bad("data", (SMALL, "--contact_sheet=none/a.png"), ("--contact_sheet", "no folder none")),
    Bad("data", (SMALL, "--contact_sheet=folder.png"), ("folder.png is a folder", "a file")),
]


# --- Configuration files --------------------------------------------------------------------------

_FILES = {
    "raises.py": ("def get_config():\n    return 1 / 0\n", "raises ZeroDivisionError in line 2"),
    "imports.py": ("import no_such_module\n", "No module named 'no_such_module'"),
    "none.py": ("def get_config():\n    pass\n", "returns NoneType"),
    "other.py": ("def get_config():\n    return {}\n", "returns dict"),
    "nothing.py": ("x = 1\n", "has no function get_config"),
    "exits.py": ("raise SystemExit\n", "raises SystemExit in line 1"),
    "broken.py": ("def get_config(:\n", "is not a Python file"),
    "binary.py": ("a\0b", "is not a Python file"),
}
_LIKE = "configs/quickstart.py is an example"

OF_FILES = [
    *(
        Bad("main", (f"--config={n}",), ("--config", n, said, _LIKE))
        for n, (_, said) in _FILES.items()
    ),
    Bad("data", ("--config=raises.py",), ("--config: raises.py raises", _LIKE)),
    Bad("main", ("--config=takes_none.py:way=5",), ("takes_none.py takes no argument", "'way=5'")),
    Bad("main", ("--config=wants_one.py",), ("wants_one.py needs an argument", "behind a colon")),
    Bad("main", ("--config=lacks.py", "--config.seed=1"), ("lacks.py", "config.seed is missing")),
    Bad("main", ("--config=more.py",), ("more.py", "config.x is not a field")),
    Bad("main", ("--config=missing.py",), ("--config", "'missing.py'", "configs/quickstart.py")),
    Bad(
        "main", ("--config=missing.py:way=5",), ("--config", "'missing.py'", "configs/omniglot.py")
    ),
    Bad("main", ("--config=",), ("--config", "''", "configs/quickstart.py")),
    Bad("main", ("--config=folder.png",), ("--config", "'folder.png'", "configs/quickstart.py")),
    Bad("main", (f"--config={'x' * 300}",), ("--config", "cannot be looked for", "too long")),
    Bad("main", ("--config=/proc/self/mem",), ("--config", "/proc/self/mem cannot be read")),
    Bad("main", ("--config=small.json:way=5",), ("small.json is no Python file", "no argument")),
    Bad("main", ("--config=run/results.json",), ("results.json is not the config.json of a run",)),
    Bad("main", ("--config=half.json",), ("half.json is not readable as JSON",)),
    Bad("main", ("--config=omniglot:ways=5",), ("no argument 'ways'", "did you mean way?")),
    Bad("main", ("--config=omniglot:way=x",), ("way='x'", "type int")),
    Bad("main", ("--config=omniglot:method=x",), ("config.method is 'x'", "maml, maml++")),
    Bad("main", ("--config=omniglot:protocol=x",), ("config.protocol is 'x'", "paper, released")),
    Bad("main", ("--config=quickstart:seed",), ("seed", "type int")),
    Bad(
        "main",
        ("--mode=evaluate", "--workdir=run", "--data_config=missing.py"),
        ("--data_config: ", "'missing.py'"),
    ),
    Bad(
        "main",
        ("--mode=evaluate", "--workdir=run", "--data_config=raises.py"),
        ("--data_config: raises.py raises",),
    ),
    Bad(
        "main",
        ("--mode=evaluate", "--workdir=run", "--data_config=omniglot", "--data_config.data.seed=x"),
        ("--data_config", "config.data.seed is 'x'"),
    ),
]


# --- Working directories --------------------------------------------------------------------------


def _train(workdir, *words, more=()):
    return Bad("main", (SMALL, f"--workdir={workdir}", *more), (workdir, *words))


def _evaluate(workdir, *words, more=()):
    return Bad("main", ("--mode=evaluate", f"--workdir={workdir}", *more), words)


OF_WORKDIRS = [
    _train("file", "is a file", "must be a folder"),
    _train("foreign", "is not a run's folder: it holds thesis.txt", "new or empty folder"),
    _train(".", "is not a run's folder", "new or empty folder"),
    _train("file/below", "Not a directory"),
    _train("dangling", "is a link to nowhere, which does not exist", "another --workdir"),
    _train("/proc/run", "cannot make"),
    _train("y" * 300, "too long"),
    _train(
        "run", "another configuration", "config.seed: 1 here, 0 there", more=["--config.seed=1"]
    ),
    _train("half_config", "config.json is not readable as JSON", "Restore it"),
    _train("list_config", "config.json holds a list", "Restore it"),
    _train("no_config", "holds checkpoints, but no config.json", "Restore that file"),
    _train("half_results", "results.json is not readable as JSON", "move it away"),
    _train("other_results", "results.json does not fit", "move it away"),
    _train("half_data", "data.json is not readable as JSON", "move it away"),
    _train("other_data", "other images", "another --workdir"),
    _train("other_split", "other classes in its train split", "data.json"),
    _evaluate("none", "none/config.json does not exist", "a trained run"),
    _evaluate("file", "file/config.json", "a trained run"),
    _evaluate("dangling", "dangling/config.json does not exist", "a trained run"),
    _evaluate("foreign", "foreign/config.json does not exist", "a trained run"),
    _evaluate("half_config", "config.json is not readable as JSON", "Restore it"),
    _evaluate("list_config", "config.json holds a list", "must hold a JSON object"),
    _evaluate(
        "old_config", "config.json does not fit this version", "rate_decay is 1.0", "28e0004"
    ),
    _evaluate("bad_config", "config.json does not fit this version", "task.way is 1", "from 2"),
    _evaluate("half_results", "results.json is not readable as JSON", "move it away"),
    _evaluate("other_results", "results.json does not fit", "move it away"),
    _evaluate("half_data", "data.json is not readable as JSON", "move it away"),
    _evaluate("half_tasks", "predictions.npz cannot be read", "move it away"),
    _evaluate("no_checkpoints", "no_checkpoints has no checkpoint", "train it first"),
    _evaluate("damaged", "outer step 2, 4, 6", "damaged", "Restore their files from a copy"),
    Bad("main", ("--mode=evaluate",), ("--mode=evaluate needs --workdir",)),
    Bad("main", ("--mode=evaluate", "--workdir="), ("--mode=evaluate needs --workdir",)),
]

OF_EVALUATIONS = [
    _evaluate("run", "--way is 5", "test split", "at most 4", more=["--way=5"]),
    _evaluate("run", "--shot", "9 + 1 = 10", "at most 6", more=["--shot=9"]),
    _evaluate("run", "--query", "1 + 9 = 10", "at most 6", more=["--query=9"]),
    _evaluate("run", "--inner_steps is 99999", "from 1 to 10000", more=["--inner_steps=99999"]),
    _evaluate("run", "--tasks is 9999999", "from 2 to 1048576", more=["--tasks=9999999"]),
    _evaluate(
        "run", "--statistics is 'bach'", "batch, running, support", more=["--statistics=bach"]
    ),
    _evaluate("run", "--statistics is ''", "batch, running, support", more=["--statistics="]),
    _evaluate("run", "--statistics", "none of them twice", more=["--statistics=batch,batch"]),
    _evaluate("run", "--data_config.data.image_size=16", more=["--data_config=quickstart"]),
    _evaluate(
        "run",
        "another configuration",
        "config.experiment: 'quickstart' here",
        more=["--config=quickstart"],
    ),
]


# --- Data -----------------------------------------------------------------------------------------


def _own(folder, *words, more=()):
    line = ("--config=image_folder:way=2,shot=1,query=2", f"--config.data.manual_dir={folder}")
    return Bad("data", (*line, *more), words)


def _small(config, field, folder, *words):
    return Bad("data", (f"--config={config}", f"--config.data.{field}={folder}"), words, real=False)


OF_OWN_IMAGES = [
    _own("", "data.manual_dir is empty", "<root>/<class>/"),
    _own("none", "data.manual_dir: none is no folder", "images per class"),
    _own("file", "data.manual_dir: file is no folder"),
    _own("empty", "empty has no class folders", "one for each class"),
    _own("own_empty_image", "class 0/00.png", "0 bytes", "Replace or remove it"),
    _own("own_text", "class 0/00.png", "no image of a known format", "PNG, JPEG"),
    _own("own_half_image", "class 0/00.png", "complete image file"),
    _own("own_one_image", "config.task.shot", "'class 0'", "(1)", "config.data.smallest_class="),
    _own("own_two_splits", "own_two_splits has the folders train, val only", "train, val, test"),
    _own("own_shared", "class 0", "different classes"),
    _own("own", "config.task.way is 9", "classes", more=["--config.task.way=9"]),
    _own("own", "task.shot", "9 + 2 = 11", "at most", more=["--config.task.shot=9"]),
    _own(
        "own",
        "normalize",
        "colour",
        "use none",
        more=["--config.data.channels=1", "--config.data.normalize=imagenet"],
    ),
    _own(
        "own",
        "data.split_fractions gives the val split none",
        "raise its fraction",
        more=["--config.data.split_fractions=0.9,0.01,0.09"],
    ),
    _own(
        "own",
        "data.split_file: none.csv cannot be read",
        more=["--config.data.split_file=none.csv"],
    ),
    _own(
        "own",
        "head.csv must begin with the line 'class,split'",
        more=["--config.data.split_file=head.csv"],
    ),
    _own(
        "own",
        "split.csv has the line 'class 1,trian'",
        "train, val, test",
        more=["--config.data.split_file=split.csv"],
    ),
    _own(
        "own",
        "twice.csv has the line 'class 1,val'",
        "twice",
        more=["--config.data.split_file=twice.csv"],
    ),
    _own(
        "own",
        "some.csv",
        "the val split has no classes",
        more=["--config.data.split_file=some.csv"],
    ),
    _own("own", "data.cache_dir", "a file is in its place", more=["--config.data.cache_dir=file"]),
    _own(
        "own",
        "data.cache_dir",
        "file/x",
        "can be made and written",
        more=["--config.data.cache_dir=file/x"],
    ),
]

OF_DATA_SETS = [
    _small("mini_imagenet", "manual_dir", "", "data.manual_dir", "train.csv"),
    _small("mini_imagenet", "manual_dir", "none", "none is no folder"),
    _small("mini_imagenet", "manual_dir", "empty", "empty has no class folders", "train.csv"),
    _small("mini_imagenet", "manual_dir", "mini_half_zip", "images_a.zip is truncated", "again"),
    _small("mini_imagenet", "manual_dir", "mini_no_zip", "train.csv lists", "are missing"),
    _small(
        "mini_imagenet",
        "manual_dir",
        "mini_head",
        "train.csv",
        "begin with the line 'filename,label'",
    ),
    _small("mini_imagenet", "manual_dir", "mini_column", "train.csv, line 2: 'x.png'", "class"),
    _small(
        "mini_imagenet",
        "manual_dir",
        "mini_no_csv",
        "has test.csv, train.csv;",
        "all of train, val, test",
    ),
    _small("mini_imagenet", "manual_dir", "mini_bytes", "train.csv cannot be read as a CSV file"),
    _small(
        "mini_imagenet",
        "manual_dir",
        "mini_no_split",
        "folders test, train only",
        "train, val, test",
    ),
    _small("mini_imagenet", "manual_dir", "mini_call", "val.pkl asks for", "only NumPy arrays"),
    _small("mini_imagenet", "manual_dir", "mini_no_pickle", "all of train, val, test"),
    _small("omniglot", "manual_dir", "none", "images_background.zip does not exist", "official"),
    _small("omniglot", "manual_dir", "omni_half", "images_background.zip is truncated", "again"),
    _small("omniglot", "manual_dir", "omni_one", "images_evaluation.zip does not exist"),
    _small("omniglot", "tfds_dir", "none", "none holds no prepared Omniglot", "TFDS root"),
    _small("omniglot", "name", "tfds:", "data.name is 'tfds:'", "tfds:<name>"),
    Bad(
        "data",
        ("--config=omniglot", "--config.data.name=tfds:none", "--config.data.tfds_dir=empty"),
        ("data.tfds_dir: empty", "download_and_prepare"),
        real=False,
    ),
]


# --- Predictions ----------------------------------------------------------------------------------

_PREDICT = ("--model=run", "--support=own", "--query=own")


def _predict(*words, more=()):
    return Bad("predict", (*_PREDICT, *more), words)


OF_PREDICTIONS = [
    Bad("predict", (), ("--model is missing", "--help")),
    Bad("predict", ("--model=run",), ("--support is missing", "--help")),
    Bad("predict", _PREDICT[:2], ("--query is missing", "folders of images")),
    _predict("There is no trained model 'none'", more=["--model=none"]),
    _predict("There is no trained model 'foreign'", more=["--model=foreign"]),
    _predict("config.json is not readable as JSON", more=["--model=half_config"]),
    _predict("damaged", "Restore their files from a copy", more=["--model=damaged"]),
    _predict("none cannot be read", more=["--support=none"]),
    _predict("empty has no class folders", "one for each class", more=["--support=empty"]),
    _predict("class 0/00.png", "0 bytes", more=["--support=own_empty_image"]),
    _predict("The folder empty has no image", ".png", more=["--query=empty"]),
    _predict("polarity", "auto, dark_on_light", more=["--polarity=up"]),
    _predict("statistics", "batch, running, support", more=["--statistics=bach"]),
    _predict("inner_steps is 0", "from 1 to 10000", more=["--inner_steps=0"]),
    _predict("ensemble is 0", "1 or more", more=["--ensemble=0"]),
    _predict("--ensemble is 'x'", "a whole number", more=["--ensemble=x"]),
    _predict("--output", "no folder none", "make it first", more=["--output=none/a.csv"]),
    _predict("--figure is 'a.gif'", ".png or .pdf", more=["--figure=a.gif"]),
    _predict("'modle'", "model", "--help", more=["--modle=x"]),
]

EVERY = [
    *of_fields(),
    *OF_FIELDS_TOGETHER,
    *OF_SIZES,
    *OF_FLAGS,
    *OF_FILES,
    *OF_WORKDIRS,
    *OF_EVALUATIONS,
    *OF_OWN_IMAGES,
    *OF_DATA_SETS,
    *OF_PREDICTIONS,
]


# --- What the command lines name -----------------------------------------------------------------


def per_step_values(root, run):
    """Makes the files in a folder.

    Args:
        root: an empty folder, the current one of every command.
        run: the working directory of a finished run.
    """
    cache = root / "cache" / "mamlpp_jax"
    cache.mkdir(parents=True)
    dataset.save(patterns(), cache / f"glyphs-{SIZE}px-v1.npz")
    shutil.copy(run / "config.json", root / "small.json")
    (root / "half.json").write_text('{"experiment": ')
    (root / "flags.txt").write_text("--config.train.epocs=3\n")
    (root / "file").write_text("a file")
    (root / "dangling").symlink_to("nowhere")
    for folder in ("empty", "foreign", "folder.png"):
        (root / folder).mkdir()
    (root / "foreign" / "thesis.txt").write_text("years of work")
    _configuration_files(root)
    _workdirs(root, run)
    _own_images(root)
    with pytest.MonkeyPatch.context() as patch:
        small_sources.shrink_mini_imagenet(patch)
        small_sources.shrink_omniglot(patch)
        _data_sets(root)


def _configuration_files(root):
    for name, (text, _) in _FILES.items():
        (root / name).write_text(text)
    head = "from mamlpp_jax.config import default_config\ndef get_config"
    (root / "takes_none.py").write_text(f"{head}():\n    return default_config()\n")
    (root / "wants_one.py").write_text(f"{head}(argument):\n    return default_config()\n")
    body = "config = default_config()\n    {}\n    return config\n"
    (root / "lacks.py").write_text(f"{head}():\n    {body.format('del config.seed')}")
    (root / "more.py").write_text(f"{head}():\n    {body.format('config.x = 3')}")


def _workdirs(root, run):
    def copy(name):
        return shutil.copytree(run, root / name, ignore=shutil.ignore_patterns("*.png", "lock"))

    def rewrite(path, change):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    copy("run")
    for name in ("config", "results", "data"):
        (copy(f"half_{name}") / f"{name}.json").write_text("{")
    (copy("half_tasks") / "predictions.npz").write_bytes(b"PK")
    (root / "half_data" / "results.json").unlink()
    (copy("list_config") / "config.json").write_text("[]")
    (copy("no_config") / "config.json").unlink()
    rewrite(
        copy("old_config") / "config.json", lambda content: content["inner"].update(rate_decay=1.0)
    )
    rewrite(copy("bad_config") / "config.json", lambda content: content["task"].update(way=1))
    (copy("other_results") / "results.json").write_text('{"test": 3}')
    for name, change in {
        "other_data": lambda content: content.update(sha256="0" * 64),
        "other_split": lambda content: content["classes"]["train"].reverse(),
    }.items():
        rewrite(copy(name) / "data.json", change)
        (root / name / "results.json").unlink()
    shutil.rmtree(copy("no_checkpoints") / "checkpoints")
    for path in (copy("damaged") / "checkpoints").rglob("metrics/metrics"):
        path.write_bytes(b"{}")


def _own_images(root):
    def own(name, **options):
        return small_sources.own_images(root / name, **options)

    own("own", classes=10)
    (own("own_empty_image") / "class 0" / "00.png").write_bytes(b"")
    (own("own_text") / "class 0" / "00.png").write_text("no image")
    half = own("own_half_image") / "class 0" / "00.png"
    half.write_bytes(half.read_bytes()[:-200])
    for path in sorted((own("own_one_image") / "class 0").iterdir())[1:]:
        path.unlink()
    own("own_two_splits", splits=["train", "val"])
    own("own_shared", splits=["train", "val", "test"])
    shutil.copytree(root / "own_shared/train/class 0", root / "own_shared/val/class 0")
    (root / "head.csv").write_text("klass,split\n")
    (root / "split.csv").write_text("class,split\nclass 1,trian\n")
    (root / "twice.csv").write_text("class,split\nclass 1,train\nclass 1,val\n")
    (root / "some.csv").write_text("class,split\nclass 1,train\n")


def _data_sets(root):
    for name in ("half_zip", "no_zip", "head", "column", "no_csv", "bytes"):
        small_sources.mini_zips(root / f"mini_{name}")
    half = root / "mini_half_zip" / "images_a.zip"
    half.write_bytes(half.read_bytes()[:500])
    (root / "mini_no_zip" / "images_b.zip").unlink()
    (root / "mini_head" / "train.csv").write_text("a,b\n")
    (root / "mini_column" / "train.csv").write_text("filename,label\nx.png\n")
    (root / "mini_no_csv" / "val.csv").unlink()
    (root / "mini_bytes" / "train.csv").write_bytes(b"\xff\xfe\0")
    shutil.rmtree(small_sources.mini_folders(root / "mini_no_split") / "val")
    for name in ("call", "no_pickle"):
        small_sources.mini_pickles(root / f"mini_{name}")
    (root / "mini_call" / "mini-imagenet-cache-val.pkl").write_bytes(b"cos\nsystem\n(S'ls'\ntR.")
    (root / "mini_no_pickle" / "mini-imagenet-cache-val.pkl").unlink()
    for name in ("half", "one"):
        small_sources.omniglot_archives(root / f"omni_{name}")
    (root / "omni_half" / "images_background.zip").write_bytes(b"PK")
    (root / "omni_one" / "images_evaluation.zip").unlink()
