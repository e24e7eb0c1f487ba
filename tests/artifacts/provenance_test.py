"""What results say of the code and the machine that computed them."""

import json
import subprocess

import jax
import pytest

from mamlpp_jax.artifacts import provenance as provenance_module
from mamlpp_jax.artifacts.provenance import provenance


def test_the_machine_is_named():
    found = provenance(devices=2)
    assert found["hardware"].pop("processor")
    assert found["hardware"] == {
        "platform": "cpu",
        "device": jax.devices()[0].device_kind,
        "devices": 2,
        "processes": 1,
        "jax": jax.__version__,
        "matmul_precision": "default",
    }
    json.dumps(found)


def test_the_precision_of_products_is_named():
    with jax.default_matmul_precision("float32"):
        assert provenance(1)["hardware"]["matmul_precision"] == "float32"


def test_the_commit_is_that_of_the_code_wherever_the_command_runs(tmp_path, monkeypatch):
    here = provenance(1)["commit"]
    monkeypatch.chdir(tmp_path)
    assert provenance(1)["commit"] == here
    assert here


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 10),
    ],
)
def test_without_git_the_commit_is_unknown(monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.delenv("MAMLPP_COMMIT", raising=False)
    assert provenance(1)["commit"] == "unknown"
    monkeypatch.setenv("MAMLPP_COMMIT", "0123456789ab")
    assert provenance(1)["commit"] == "0123456789ab"


def test_what_the_repository_says_goes_before_the_variable(monkeypatch):
    here = provenance(1)["commit"]
    monkeypatch.setenv("MAMLPP_COMMIT", "0123456789ab")
    assert here in (provenance(1)["commit"], "unknown")  # unknown in a copy of the files alone


def test_a_copy_installed_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.delenv("MAMLPP_COMMIT", raising=False)
    assert provenance(1)["commit"] == "unknown"
