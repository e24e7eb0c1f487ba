"""The workflows and issue forms are what GitHub reads."""

import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / ".github"


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("github-workflows", "workflows/*.yml"), ("github-issue-forms", "ISSUE_TEMPLATE/*.yml")],
)
def test_files_follow_their_schema(schema, pattern):
    pytest.importorskip("check_jsonschema")
    files = sorted(FOLDER.glob(pattern))
    assert files
    program = [sys.executable, "-m", "check_jsonschema", f"--builtin-schema=vendor.{schema}"]
    done = subprocess.run([*program, *map(str, files)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
