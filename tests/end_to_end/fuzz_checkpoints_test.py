"""Whatever became of a run's checkpoints, they are restored, left out or refused; see `helpers/fuzzing`."""

import contextlib
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from mamlpp_jax.training.checkpoints import CheckpointReader, Checkpoints
from mamlpp_jax.types import MetaParams, MetaState
from tests.helpers.fuzzing import cases, damaged, fuzz, sandbox

__all__ = ["sandbox"]  # a fixture


def _state(step):
    weights = {"w": jnp.arange(6.0).reshape(2, 3) + step, "b": jnp.ones(3)}
    meta = MetaParams(weights, {"scale": jnp.ones(2)}, {"lr": jnp.ones(2)})
    return MetaState(jnp.int32(step), meta, {}, {"mu": weights})


@st.composite
def spoilt_files(draw, files, folders):
    """What to do to the files of a run: (action, path below the run, content)."""
    changes = []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(files)))
        action = draw(
            st.sampled_from(
                ["damage", "damage", "damage", "delete", "empty", "add", "folder", "drop"]
            )
        )
        if action == "damage":
            changes.append(("write", path, draw(damaged([files[path]]))))
        elif action == "empty":
            changes.append(("write", path, b""))
        elif action == "add":
            name = draw(
                st.sampled_from(["x", "9", "-1", "_METADATA", "4.orbax-checkpoint-tmp", "é \n"])
            )
            changes.append(
                ("write", os.path.join(os.path.dirname(path), name), draw(st.binary(max_size=9)))
            )
        elif action == "drop":
            changes.append(("drop", draw(st.sampled_from(sorted(folders))), b""))
        else:
            changes.append((action, path, b""))
    return changes


def _spoil(root, changes):
    for action, name, content in changes:
        path = root / name
        with contextlib.suppress(OSError):  # gone already, with its folder
            if action == "write":
                path.write_bytes(content)
            elif action == "drop":
                shutil.rmtree(path)
            else:
                path.unlink()
                if action == "folder":
                    path.mkdir()


class Saved:
    """A run with two checkpoints, and copies of it that something happened to."""

    def __init__(self, sandbox):
        self.run, self.copied = sandbox.inside / "run", sandbox.inside / "copied"
        with Checkpoints(self.run, num_best=2) as checkpoints:
            for step, accuracy in ((2, 0.5), (4, 0.4)):
                checkpoints.buffer(_state(step), accuracy)
                checkpoints.save()

    def changes(self):
        paths = {str(path.relative_to(self.run)): path for path in self.run.rglob("*")}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        return spoilt_files(files, paths.keys() - files.keys())

    def spoil(self, changes):
        shutil.rmtree(self.copied, ignore_errors=True)
        shutil.copytree(self.run, self.copied)
        _spoil(self.copied, changes)
        return self.copied


def assert_restores(checkpoints, step):
    restored = checkpoints.restore(step, like=_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, _state(step))


@cases(few=15)
def test_checkpoints_that_a_run_goes_on_from(count, sandbox):
    saved = Saved(sandbox)

    def check(changes):
        copied = saved.spoil(changes)
        with sandbox.reads(allowed=copied), Checkpoints(copied, num_best=2) as checkpoints:
            checkpoints.best_steps(2)
            latest = checkpoints.latest_step()
            sandbox.refused += latest != 4  # damaged, so it was quarantined
            if latest is not None:
                assert_restores(checkpoints, latest)

    fuzz(sandbox, count, saved.changes(), check)


@cases(few=15)
def test_checkpoints_that_are_only_read(count, sandbox):
    saved = Saved(sandbox)

    def check(changes):
        copied = saved.spoil(changes)
        with sandbox.reads(), CheckpointReader(copied) as checkpoints:
            sound = checkpoints.steps()
            sandbox.refused += 4 not in sound  # damaged, so it is left out
            assert checkpoints.best_steps(2) == sound  # the earlier is the better
            for step in sound:
                assert_restores(checkpoints, step)

    fuzz(sandbox, count, saved.changes(), check)
