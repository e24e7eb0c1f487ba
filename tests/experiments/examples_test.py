"""The short example programs learn, and are as short as they say."""

import importlib
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import examples

FOLDER = pathlib.Path(examples.__file__).parent
# The others are callbacks; `tests/cli/in_process_test.py` runs them.
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "def train(" in path.read_text())


def run(name, steps):
    return importlib.import_module(f"experiments.examples.{name}").train(steps)


# Outer steps of those that learn fast and slowly.
STEPS = {"test_time": 12}
LONGER = {"test_time", "uncertainty"}
QUICK = {"uncertainty", "learned_loss"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name):
    lines = len((FOLDER / f"{name}.py").read_text().splitlines())
    assert lines <= (80 if name in LONGER else 40)


# `tests/packaging/distribution_test.py` runs all of them in `make test`.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_an_example_learns(name):
    steps = STEPS.get(name, 120)
    result = run(name, steps)
    metrics = np.asarray(result[1] if isinstance(result, tuple) else result)
    metrics, few = metrics.reshape(-1, steps), steps // 6
    first, last = metrics[:, :few].mean(1), metrics[:, -few:].mean(1)
    if name == "tokens":  # accuracy, the others report errors
        first, last = last, first
    assert np.all(last < 0.95 * first), (first, last)


def test_the_seeds_differ():
    first, second, third = run("seeds", 3)
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)


def test_a_learned_loss_leaves_its_start():
    weights, _ = run("learned_loss", 120)
    assert weights.shape == (3, 2)
    assert float(jnp.abs(weights - jnp.log(2)).max()) > 0.02
