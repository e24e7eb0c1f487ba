"""The wheel and the source distribution, built once, and the library installed from the wheel."""

import shutil

import pytest

from tests.helpers.distributions import ROOT, build_wheel, run


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of what is built from, for a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    names = ("mamlpp_jax", "configs", "experiments", "tests")
    for name in names:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    program = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run("-c", program, folder=source)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel was installed into, without its dependencies."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--target", target]
    run("-m", "pip", "install", *options, wheel, folder=wheel.parent)
    return target
