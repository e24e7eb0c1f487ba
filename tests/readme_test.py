"""What README shows is true: the library program runs, and the map of the packages is whole."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

from experiments.methods import RESULTS, table
from tests.helpers.small_models import drawings, small_workdir

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["classifier", "library", "run", "new method"])
def test_the_programs_run_without_warnings_and_losses_fall(tmp_path, program):
    for name, image in zip(("a1", "b1", "b2", "x", "y"), drawings(5), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    if "runs/quickstart" in program:
        small_workdir(tmp_path / "runs" / "quickstart")
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
        losses = [float(loss) for loss in re.findall(r"loss ([0-9.]+)", done.stdout)]
        assert len(losses) == 20
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_new_method_takes_15_lines():
    code = README.split("def meta_momentum")[1].split("\n\n\n")[0]
    lines = [line for line in code.splitlines()[2:] if line.strip()]
    assert len(lines) <= 15


def test_the_table_of_methods_is_what_the_command_prints():
    assert f"\n\n{table(RESULTS)}\n\n" in README


def test_the_file_map_names_every_package_and_nothing_else():
    section = README.split("## How the files fit together")[1].split("\n## ")[0]
    table = section.split("|---|---|")[1].split("\n\n")[0]
    named = re.findall(
        r"`([\w.]+)/?`", "\n".join(row.split("|")[1] for row in table.splitlines() if row)
    )
    found = {
        path.name
        for path in (ROOT / "mamlpp_jax").iterdir()
        if path.name not in ("__init__.py", "_version.py", "py.typed")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert len(named) == len(set(named))
    assert set(named) == found
