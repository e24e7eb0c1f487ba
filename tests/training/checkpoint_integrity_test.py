"""Checksum manifests, and what becomes of checkpoints that do not match theirs; on folders of plain files."""

import errno
import json
import pathlib
import shutil

import pytest

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training.checkpoint_integrity import (
    complete_checkpoints,
    find_damage,
    quarantine_damaged,
    remove_half_written,
    write_manifest,
)
from tests.helpers.refusals import refused


@pytest.fixture
def folder(tmp_path):
    """A folder of two checkpoints."""
    checkpoints = tmp_path / "checkpoints"
    for step in (4, 8):
        (checkpoints / str(step) / "state" / "d").mkdir(parents=True)
        (checkpoints / str(step) / "state" / "d" / "array").write_bytes(b"x" * step)
        (checkpoints / str(step) / "metadata").write_text("{}")
        write_manifest(checkpoints / str(step))
    return checkpoints


def test_a_manifest_lists_every_file_with_its_sha256(folder):
    listed = json.loads((folder / "4" / "sha256.json").read_text())
    assert listed.keys() == {"metadata", "state/d/array"}
    # of b"{}"
    assert listed["metadata"].startswith("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f6")
    assert find_damage(folder / "4") == ""


@pytest.mark.parametrize("later", ["_CHECKPOINT_METADATA", "commit_success.txt"])
def test_what_orbax_writes_when_it_is_done_is_no_damage(folder, later):
    (folder / "4" / later).write_text("now")
    assert find_damage(folder / "4") == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / "metadata").write_text("[]"), "metadata differ from what was saved"),
        (lambda c: (c / "metadata").unlink(), "metadata differ from what was saved"),
        (lambda c: (c / "more").write_text(""), "more differ from what was saved"),
        (lambda c: shutil.rmtree(c / "state"), "state/d/array differ"),
        (lambda c: (c / "sha256.json").unlink(), "has no sha256.json"),
        (lambda c: (c / "sha256.json").write_text("{"), "sha256.json is not readable as JSON"),
        (lambda c: (c / "sha256.json").write_text("[]"), "sha256.json is damaged"),
    ],
)
def test_damage_is_described(folder, damage, said):
    damage(folder / "8")
    assert said in find_damage(folder / "8")


def test_only_folders_with_final_names_are_complete(folder):
    for name in ("12.orbax-checkpoint-tmp", "notes", "-3", "²"):
        (folder / name).mkdir()
    (folder / "16").write_text("a file")
    (folder / "100").mkdir()
    assert [path.name for path in complete_checkpoints(folder)] == ["4", "8", "100"]
    assert complete_checkpoints(folder / "none") == []


def test_half_written_ones_are_removed_by_name(folder, caplog):
    (folder / "12.orbax-checkpoint-tmp").mkdir()
    (folder / "12.orbax-checkpoint-tmp" / "part").write_text("")
    (folder / "16.orbax-checkpoint-tmp-3").write_text("")
    with caplog.at_level("WARNING", "absl"):
        remove_half_written(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]
    for name in ("12.orbax-checkpoint-tmp", "16.orbax-checkpoint-tmp-3"):
        assert f"{folder / name} was only half written" in caplog.text


@pytest.mark.parametrize(
    ("step", "said"),
    [("8", "the one before it is used"), ("4", "is missing among the best epochs")],
)
def test_damaged_ones_are_quarantined_by_name(folder, tmp_path, caplog, step, said):
    quarantine = tmp_path / "damaged"
    (folder / step / "metadata").write_text("[]")
    with caplog.at_level("WARNING", "absl"):
        quarantine_damaged(folder, quarantine)
    (other,) = {"4", "8"} - {step}
    assert [path.name for path in complete_checkpoints(folder)] == [other]
    assert (quarantine / step / "metadata").read_text() == "[]"
    assert f"checkpoint {folder / step} is skipped: metadata differ" in caplog.text
    assert said in caplog.text


def test_the_quarantine_keeps_what_it_has(folder, tmp_path):
    quarantine = tmp_path / "damaged"
    for _ in range(3):
        checkpoint = folder / "8"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "metadata").write_text("[]")
        quarantine_damaged(folder, quarantine)
    assert sorted(path.name for path in quarantine.iterdir()) == ["8", "8-1", "8-2"]


def test_where_all_are_damaged_nothing_is_moved(folder, tmp_path):
    for step in ("4", "8"):
        (folder / step / "metadata").write_text("[]")
    with refused(tmp_path, r"every checkpoint in .* is damaged", "4: metadata differ", "; 8: meta"):
        quarantine_damaged(folder, tmp_path / "damaged")


def test_what_cannot_be_read_at_the_moment_is_not_damaged(folder, tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
    with pytest.raises(WorkdirError, match=r"checkpoints: Input/output error"):
        quarantine_damaged(folder, tmp_path / "damaged")
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]


def test_sound_ones_need_no_quarantine(folder, tmp_path):
    quarantine_damaged(folder, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_a_checkpoint_that_cannot_be_moved_is_named(folder, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    (folder / "8" / "metadata").write_text("[]")
    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(WorkdirError, match=r"checkpoints: Read-only file system"):
        quarantine_damaged(folder, tmp_path / "damaged")
