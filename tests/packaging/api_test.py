"""The public names of the package, which are imported on first use."""

import pathlib
import subprocess
import sys

import pytest

import mamlpp_jax

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(set(mamlpp_jax.__all__) - {"__version__"}))
def test_a_public_name_resolves_and_is_documented(name):
    value = getattr(mamlpp_jax, name)
    assert (value.__doc__ or "").strip()
    assert getattr(value, "__module__", "mamlpp_jax.").startswith("mamlpp_jax.")
    assert name in mamlpp_jax.__doc__
    assert name in dir(mamlpp_jax)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No mamlpp_jax attribute learner_of"):
        _ = mamlpp_jax.learner_of


@pytest.mark.parametrize("module", ["mamlpp_jax", "mamlpp_jax.config", "configs.omniglot"])
def test_importing_does_not_import_jax(module):
    program = f"import sys, {module}; print([name for name in sys.modules if name in ('jax', 'flax', 'optax')])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_the_citation_carries_the_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {mamlpp_jax.__version__}" in lines
