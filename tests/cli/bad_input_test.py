"""Every bad input of `helpers/bad_inputs` ends in one paragraph that names what is wrong; nothing is written."""

import os
import pathlib
import subprocess
import sys

import pytest

from mamlpp_jax.cli.flags import USAGE_EXIT_CODE
from tests.helpers import bad_inputs, command_lines, small_sources
from tests.helpers.bad_inputs import Bad

ROOT = pathlib.Path(__file__).parents[2]
# In one process, so that the files are made once.
pytestmark = pytest.mark.xdist_group("bad_input")


@pytest.fixture(scope="module")
def files(tmp_path_factory, finished_and_compiled):
    root = tmp_path_factory.mktemp("bad")
    bad_inputs.per_step_values(root, finished_and_compiled[0].path)
    return root


def content(root):
    """Every file but those of the data cache."""
    return {
        path: path.lstat().st_mtime_ns if path.is_file() else None
        for path in root.rglob("*")
        if "cache" not in path.relative_to(root).parts
    }


def check(bad, code, paragraph):
    assert code == USAGE_EXIT_CODE, paragraph
    for word in bad.words:
        assert word in paragraph
    assert "Traceback" not in paragraph
    assert "object at 0x" not in paragraph


def name_of(bad):
    return " ".join([bad.command, *bad.line])[:120]


OF_FIELDS = list(bad_inputs.of_fields())
OTHERS = bad_inputs.EVERY[len(OF_FIELDS) :]


@pytest.mark.parametrize("bad", OF_FIELDS, ids=name_of)
def test_a_bad_value_of_a_field_is_one_paragraph(tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    done = command_lines.run(bad.command, *bad.line)
    check(bad, done.code, done.paragraph or done.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", OTHERS, ids=name_of)
def test_a_bad_input_is_one_paragraph(files, monkeypatch, bad):
    monkeypatch.chdir(files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files / "cache"))
    small_sources.shrink_mini_imagenet(monkeypatch)
    small_sources.shrink_omniglot(monkeypatch)
    before = content(files)
    done = command_lines.run(bad.command, *bad.line)
    check(bad, done.code, done.paragraph or done.err)
    assert content(files) == before


def run_command(root, bad, **environment):
    """Checks what a real command makes of a bad input."""
    before = content(root)
    done = subprocess.run(
        [sys.executable, "-P", "-m", f"mamlpp_jax.{bad.command}", *bad.line],
        cwd=root,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(root / "cache"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    *_, last = done.stderr.splitlines() or [""]
    assert last.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    check(bad, done.returncode, last)
    assert content(root) == before


BACKENDS = [
    Bad("main", (bad_inputs.SMALL,), ("JAX_PLATFORMS is 'cuda'", "set it to cpu")),
    Bad("predict", bad_inputs._PREDICT, ("JAX_PLATFORMS is 'foo'", "set it to cpu")),
]


@pytest.mark.parametrize("bad", BACKENDS, ids=name_of)
def test_devices_that_are_not_there_are_one_paragraph(files, bad):
    run_command(files, bad, JAX_PLATFORMS=bad.words[0].split("'")[1])


SAMPLE = [
    bad_inputs.OF_FILES[0],
    bad_inputs.OF_WORKDIRS[2],
    bad_inputs.OF_EVALUATIONS[0],
    bad_inputs.OF_OWN_IMAGES[4],
    # ml_collections reads the file as soon as a flag is defined, if it may.
    next(bad for bad in bad_inputs.EVERY if "--flagfile=none.txt" in bad.line),
]


@pytest.mark.parametrize("bad", SAMPLE, ids=name_of)
def test_real_commands_say_the_same(files, bad):
    run_command(files, bad)


@pytest.mark.slow
@pytest.mark.parametrize(  # of the fields, whose checks are the same, every tenth
    "bad", [bad for bad in [*OF_FIELDS[::10], *OTHERS] if bad.real], ids=name_of
)
def test_the_other_real_commands_say_the_same(files, bad):
    run_command(files, bad)


def test_there_are_many_and_every_field_is_among_them():
    lines = [(bad.command, bad.line) for bad in bad_inputs.EVERY]
    assert len(set(lines)) == len(lines) >= 120
    named = " ".join(text for _, line in lines for text in line)
    assert all(f"--config.{field}=" in named for field in bad_inputs.FIELDS)
