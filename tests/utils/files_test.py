import errno
import json
import os
import pathlib
import stat

import numpy as np
import pytest

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils import files


def test_json_keeps_order_and_takes_numpy(tmp_path):
    path = tmp_path / "results.json"
    value = {"b": np.float32(0.5), "a": np.array([1, 2]), "path": pathlib.Path("x"), "text": "±"}
    files.write_json(path, value)
    assert files.read_json(path) == {"b": 0.5, "a": [1, 2], "path": "x", "text": "±"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "b": 0.5,\n  "a"')
    assert text.endswith("}\n")


def test_numbers_that_json_has_not_become_null(tmp_path):
    path = tmp_path / "results.json"
    values = [float("nan"), np.float32("inf"), np.array([1.5, -np.inf]), True, 2]
    files.write_json(path, {"values": values, "inner": {"loss": np.float64("nan")}})

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"values": [None, None, [1.5, None], True, 2], "inner": {"loss": None}}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No space left on device"):
        files.write_json(path, {"new": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert files.read_json(path) == {"old": 1}


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        files.write_json(path, {"new": object()})
    assert files.read_json(path) == {"old": 1}


def test_written_files_have_the_usual_permissions(tmp_path):
    files.write_json(tmp_path / "written.json", 1)
    (tmp_path / "usual").write_text("")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("written.json", "usual")]
    assert mode[0] == mode[1]


def test_writing_into_a_missing_directory_is_named(tmp_path):
    path = tmp_path / "gone" / "results.json"
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No such file or directory"):
        files.write_json(path, {})


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1} x', b"\xff\xfe"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(WorkdirError, match=f"{path} is not readable as JSON"):
        files.read_json(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"cannot read .*config\.json: No such file"):
        files.read_json(tmp_path / "config.json")
