"""README is short and true: its program runs, its links hold, here and on the page of a package index."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers.small_models import drawings

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "docs" / "tutorials" / "new_method.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NEW_METHOD = "\n".join(re.findall(r"```\{code-cell\}\n(.*?)```", NOTEBOOK, re.DOTALL))


def test_it_stays_short():
    assert len(README.splitlines()) <= 160
    assert len(README.encode()) <= 10_000
    table = README.split("<!-- report:summary -->")[1].split("<!-- /report -->")[0]
    assert len([line for line in table.splitlines() if line.startswith("|")]) <= 2 + 6


@pytest.mark.parametrize(
    "program", [*PROGRAMS, NEW_METHOD], ids=["classifier", "library", "new method"]
)
def test_the_programs_run_without_warnings_and_losses_fall(tmp_path, program):
    for name, image in zip(("a1", "b1", "b2", "x", "y"), drawings(5), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    if "make_train_step" in program:
        listed = re.sub(r", accuracy.*|step \d+", "", done.stdout)
        losses = [float(loss) for loss in re.findall(r"\d+\.\d+", listed)]
        assert len(losses) == 20
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_new_method_takes_15_lines():
    code = NEW_METHOD.split("def meta_momentum")[1].split("\n\n\n")[0].split("inner = ")[0]
    lines = [line for line in code.splitlines()[2:] if line.strip()]
    assert len(lines) <= 15


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_hold(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_links_are_absolute_on_a_package_index(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MAMLPP_REPOSITORY", "https://example.org/a/b/")
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    runpy.run_path("setup.py")
    targets = re.findall(r"\]\(([^)]+)\)", given["long_description"])
    assert targets
    assert all(target.startswith("https://example.org/a/b/") for target in targets)
    assert "https://example.org/a/b/raw/HEAD/experiments" in given["long_description"]
    assert given["project_urls"]["Source"] == "https://example.org/a/b"
