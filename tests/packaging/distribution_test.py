"""The wheel and the source distribution, and the library installed from them without the checkout."""

import ast
import email
import importlib.metadata
import pathlib
import re
import sys
import tarfile
import zipfile

import pytest

import mamlpp_jax
from mamlpp_jax.data.readers import tfds_tools
from tests.helpers.distributions import ROOT, build_wheel, run_installed

# Modules that Windows does not have, and optional ones.
MISSING = (
    *("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty", "uvloop"),
    *tfds_tools.MODULES,
)
READY = ["image_folder", "mini_imagenet", "omniglot", "quickstart"]
# One process builds for all of these tests.
pytestmark = pytest.mark.xdist_group("packaging")


def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    library = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mamlpp_jax").rglob("*.py")}
    stubs = {"mamlpp_jax/py.typed", "mamlpp_jax/__init__.pyi"}
    configs = {f"mamlpp_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert {f"mamlpp_jax/configs/{name}.py" for name in READY} <= configs
    shipped = {path for path in (ROOT / "mamlpp_jax" / "pretrained").rglob("*") if path.is_file()}
    models = {path.relative_to(ROOT).as_posix() for path in shipped}
    assert files(wheel) == library | configs | models | stubs


def test_the_wheel_carries_the_notices_of_what_the_models_were_trained_on(wheel):
    with zipfile.ZipFile(wheel) as archive:
        notices = archive.read("mamlpp_jax/pretrained/NOTICES.txt").decode()
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for owner in ("Copyright (c) 2015 Brenden Lake", "Bitstream", "Tavmjong Bah", "ImageNet"):
        assert owner in notices
    for name, size in sizes.items():
        if name.startswith("mamlpp_jax/pretrained/"):
            assert size < 8e6, name


def test_the_source_distribution_gives_the_same_wheel(wheel, sdist, tmp_path):
    assert files(build_wheel(sdist, tmp_path)) == files(wheel)


def test_the_source_distribution_can_be_tested(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = ["Makefile", "LICENSE", "configs/omniglot.py", "tests/reference/colour_84.npz"]
    assert {*expected, "tests/packaging/distribution_test.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_version_is_the_librarys(wheel, sdist):
    assert metadata(wheel)["Version"] == mamlpp_jax.__version__
    assert sdist.name == f"mamlpp_jax-{mamlpp_jax.__version__}.tar.gz"


def requirements(wheel, extra=None):
    """Names of what the wheel requires, alone or for an extra."""
    marker = "" if extra is None else f'extra == "{extra}"'
    return {
        re.match(r"[\w.-]+", text)[0].lower().replace("_", "-")
        for text in metadata(wheel).get_all("Requires-Dist")
        if text.partition("; ")[2] == marker
    }


def test_tfds_is_an_extra_that_the_tests_include(wheel):
    extra = requirements(wheel, "tfds")
    assert extra == {name.replace("_", "-") for name in tfds_tools.MODULES}
    assert extra <= requirements(wheel, "test")
    assert not extra & requirements(wheel)


def test_every_import_is_required(wheel):
    required = requirements(wheel) | requirements(wheel, "heif") | requirements(wheel, "onnx")
    required.add("scikit-learn")  # of which a classifier is an estimator where it is installed
    owners = importlib.metadata.packages_distributions()
    for name in (name for name in files(wheel) if name.endswith(".py")):
        with zipfile.ZipFile(wheel) as archive:
            tree = ast.parse(archive.read(name))
        for top in imported(tree) - {*sys.stdlib_module_names, "mamlpp_jax"}:
            owned = owners.get(top, [top])  # an extra may be absent
            distributions = {owner.lower().replace("_", "-") for owner in owned}
            assert distributions & required, f"{name} imports {top}"


def imported(tree):
    """The top-level modules that a syntax tree imports, in functions too, but not for type checkers alone."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_installed_module_imports_from_an_empty_folder(installed, wheel, tmp_path):
    program = f"""
import sys
sys.modules.update(dict.fromkeys({MISSING}))  # importing them now fails
import importlib, pkgutil, mamlpp_jax
from absl import flags
names = [found.name for found in pkgutil.walk_packages(mamlpp_jax.__path__, "mamlpp_jax.")]
for name in ["mamlpp_jax", *names]:
    # A process runs one command; several commands define flags of the same names.
    flags.FLAGS.remove_flag_values(list(flags.FLAGS))
    print(importlib.import_module(name).__file__)
"""
    paths = run_installed(installed, tmp_path, "-c", program).splitlines()
    assert {pathlib.Path(path).relative_to(installed).as_posix() for path in paths} == {
        name for name in files(wheel) if name.endswith(".py")
    }
    assert not list(tmp_path.iterdir())


def test_the_example_programs_run_on_the_installed_library_alone(installed, tmp_path):
    program = f"""
import pathlib, runpy
for path in sorted(pathlib.Path({str(ROOT / "experiments" / "examples")!r}).glob("[a-z]*.py")):
    if "def train(" in path.read_text():  # the others are callbacks
        runpy.run_path(str(path))["train"](2)
        print(path.stem)
"""
    names = run_installed(installed, tmp_path, "-c", program).split()
    assert {"tokens", "series", "context", "learned_loss", "seeds"} <= set(names)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["-m", "mamlpp_jax.main"], "--workdir"),
        (["-m", "mamlpp_jax.data"], "--contact_sheet"),
        (["-m", "mamlpp_jax.predict"], "--support"),
        (["bin/mamlpp"], "--workdir"),
        (["bin/mamlpp-predict"], "--support"),
        (["bin/mamlpp-data"], "--contact_sheet"),
    ],
)
def test_help_of_the_installed_commands(installed, tmp_path, command, flag):
    *options, name = command
    program = installed / name if name.startswith("bin/") else name
    text = run_installed(installed, tmp_path, *options, program, "--help")
    assert f"\n  {flag}: " in text
    assert "python -m mamlpp_jax." in text
    assert str(ROOT) not in text


def test_the_installed_configurations_are_found_from_an_empty_folder(installed, tmp_path):
    program = "from mamlpp_jax.cli import config_files; print(*config_files.ready_configs().values(), sep='\\n')"
    paths = run_installed(installed, tmp_path, "-c", program).splitlines()
    assert {pathlib.Path(path).stem for path in paths} >= set(READY)
    assert {pathlib.Path(path).parent for path in paths} == {installed / "mamlpp_jax" / "configs"}
