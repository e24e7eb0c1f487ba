"""What results say of the code and the machine that computed them."""

import json
import subprocess

import jax
import pytest

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
    assert provenance(1)["commit"] == "unknown"
