"""Whatever command line is given, it goes on to compile or ends in one paragraph; see `helpers/command_lines`."""

import json
import resource
import shutil
import sys

from hypothesis import strategies as st

from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.errors import MamlppError
from tests.helpers import command_lines
from tests.helpers.fuzzing import NUMBERS, TEXTS, cases, fuzz, sandbox
from tests.helpers.small_runs import patterns, small_config

__all__ = ["sandbox"]  # a fixture

GIB = 2**30
# Bytes of a unit of `ru_maxrss`.
UNIT = 1 if sys.platform == "darwin" else 1024

CONFIG_FILES = {
    "small.py": "from tests.helpers.small_runs import small_config\n"
    "def get_config(method='maml++'):\n    return small_config(method)\n",
    "raises.py": "def get_config():\n    return 1 / 0\n",
    "imports.py": "import no_such_module\n",
    "returns.py": "def get_config():\n    pass\n",
    "broken.py": "def get_config(:\n",
}
READY = ["quickstart", "omniglot", "mini_imagenet", "image_folder"]

# No argument of a command can hold a null byte.
texts = TEXTS.map(lambda text: text.replace("\0", ""))
arguments = st.one_of(
    st.just(""),
    st.just(""),
    st.sampled_from([":way=5,shot=1", ":maml", ":method=maml+msl", ":protocol=released", ":"]),
    texts.map(":{}".format),
)
names = st.sampled_from(
    [*["small.py"] * 4, *CONFIG_FILES, "small.json", *READY, "none.py", "", "."]
)
configs = st.builds("--config={}{}".format, names, arguments)
fields = st.one_of(
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from(["data", "train.epochs.x", "items", "__class__", "train.", ".", "", "a.b"]),
    st.text(max_size=6).map(lambda text: text.replace("\0", "")),
)


def sound_value(name):
    """A value of the field's type, often one that it may have."""
    field = FIELDS[name]
    if field.rule.choices:
        return st.sampled_from(list(field.rule.choices))
    values = {bool: st.booleans(), int: NUMBERS, float: NUMBERS, str: texts}[type(field.default)]
    return st.one_of(st.just(field.default), values).map(str)


overrides = st.one_of(
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda name: sound_value(name).map(f"--config.{name}={{}}".format)
    ),
    st.builds("--config.{}={}".format, fields, texts),
    st.builds("-config.{}={}".format, fields, texts),
    st.builds("--noconfig.{}".format, fields),
)
# Only where writing does no harm; the file system's own refusals are in `cli/bad_input_test.py`.
workdirs = st.sampled_from(["run", "file", "file/below", "foreign", "dangling", "new", "x" * 300])
values = st.one_of(texts, NUMBERS.map(str))
flags_of = {
    "main": st.one_of(
        workdirs.map("--workdir={}".format),
        st.sampled_from(["--mode=evaluate", "--mode=train", "--dry_run", "--nodry_run"]),
        st.builds("--mode={}".format, texts),
        st.builds(
            "--{}={}".format,
            st.sampled_from(["way", "shot", "query", "tasks", "inner_steps", "statistics"]),
            st.one_of(values, st.sampled_from(["2", "3", "batch", "batch,support"])),
        ),
        st.builds(
            "--{}={}".format,
            st.sampled_from(
                ["max_minutes", "dry_run", "num_processes", "process_id", "coordinator_address"]
            ),
            values,
        ),
        st.builds("--data_config={}{}".format, names, arguments),
        st.builds("--data_config.{}={}".format, fields, texts),
    ),
    "data": st.builds("--contact_sheet={}".format, texts),
    "predict": st.one_of(
        st.builds(
            "--{}={}".format,
            st.sampled_from(["model", "support", "query", "output", "figure", "polarity"]),
            st.one_of(texts, st.sampled_from(["run", "file", "foreign", "none"])),
        ),
        st.builds("--{}={}".format, st.sampled_from(["ensemble", "inner_steps"]), values),
        st.builds("--statistics={}".format, texts),
    ),
}
ends = st.sampled_from([*[[]] * 6, ["more"], ["--config.seed"], ["--"], ["--config"], ["--none=1"]])


def of_command(command):
    """The command lines of one command."""
    first = st.just([]) if command == "predict" else st.lists(configs, min_size=1, max_size=1)
    rest = flags_of[command] if command == "predict" else st.one_of(overrides, flags_of[command])
    lines = st.builds(
        lambda *parts: [text for part in parts for text in part],
        first,
        st.lists(rest, max_size=4),
        ends,
    )
    return lines.map(lambda line: (command, line))


LINES = st.sampled_from(["main"] * 6 + ["data", "predict"]).flatmap(of_command)


def per_step_values(folder):
    """What the command lines name."""
    stored = json.dumps(small_config().to_dict())
    for name, text in {**CONFIG_FILES, "small.json": stored, "file": "a file"}.items():
        (folder / name).write_text(text)
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(stored)
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").write_text("years of work")
    (folder / "dangling").symlink_to("nowhere")


def content(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def restore(folder):
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    per_step_values(folder)


@cases(few=60)
def test_command_lines(count, sandbox):
    per_step_values(sandbox.inside)
    dataset = patterns()

    def check(case):
        command, line = case
        before = content(sandbox.inside)
        with sandbox.reads(allowed=sandbox.inside):
            done = command_lines.run(command, *line, dataset=dataset)
            assert done.code in (None, 0, 2), done.err
            assert "Traceback" not in done.err
            if done.code == 2:
                assert content(sandbox.inside) == before
                assert done.paragraph
                raise MamlppError(done.paragraph)
        if content(sandbox.inside) != before:
            restore(sandbox.inside)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz(sandbox, count, LINES, check)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * UNIT < 2 * GIB
