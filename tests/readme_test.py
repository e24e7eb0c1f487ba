"""What README shows is true: the library program runs, and the map of the packages is whole."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(PROGRAM,) = (program for program in PROGRAMS if "make_train_step" in program)


def test_the_library_program_runs_and_its_loss_falls(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([0-9.]+)", done.stdout)]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


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
