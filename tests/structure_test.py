"""The shape of the package: imports point one way, modules make no circle, files and functions stay short."""

import ast
import inspect
import pathlib

import pytest

from mamlpp_jax.algorithms.inner_loop import adapt
from mamlpp_jax.config.methods import COMPONENTS, METHODS
from mamlpp_jax.config.parts import BACKBONES, INNER_OPTIMIZERS, OUTER_DIRECTIONS
from mamlpp_jax.statistics import STATISTICS

PACKAGE = "mamlpp_jax"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE
MAX_UNITS, MAX_EDGES = 20, 75  # a unit is a package with its sub-packages, or a top-level module
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
EXEMPT = ("__init__", "__main__")

_BASE = {"types", "errors", "statistics"}
_TOOLS = {"distributed", "config", "utils"} | _BASE
_TRAINING = {"algorithms", "models", "ops", "data", "artifacts"} | _TOOLS
# Unit -> the units it may import; a new unit needs an entry here.
MAY_IMPORT = {
    "errors": set(),
    "statistics": {"types", "errors"},
    "types": set(),
    "_version": set(),
    "utils": _BASE,
    "config": {"utils"} | _BASE,
    "distributed": {"utils"} | _BASE,
    "ops": {"utils"} | _BASE,
    "models": {"ops", "utils"} | _BASE,
    "algorithms": {"models", "ops", "distributed", "utils"} | _BASE,
    "data": _TOOLS,
    "artifacts": _TOOLS,
    "training": _TRAINING,
    "reports": {"training"} | _TRAINING,
    "inference": {"training", "_version"} | _TRAINING,
    "cli": {"inference", "reports", "training"} | _TRAINING,
    "main": {"cli", "inference", "reports", "training"} | _TRAINING,
    "predict": {"main"},
}


def read_sources(root=ROOT):
    """{"mamlpp_jax.data.episodes": source} of every module; of a package under the package's name."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def is_exempt(module, sources):
    """Whether it is the `__init__` or `__main__` of a package."""
    is_package = any(other.startswith(f"{module}.") for other in sources)
    return is_package or module.rpartition(".")[2] in EXEMPT


def imports_of(module, sources):
    """The modules of ours that a module imports anywhere in its text, also in functions or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            # What is imported may be a module, or something that is in one.
            inside = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in sources else base for name in inside]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == PACKAGE}
    return found - {module}


def import_graph(sources):
    return {
        module: imports_of(module, sources) for module in sources if not is_exempt(module, sources)
    }


def unit_of(module):
    """The package or top-level module that it belongs to; "" for `mamlpp_jax` itself."""
    return module.split(".")[1] if "." in module else ""


def unit_edges(graph):
    pairs = {(unit_of(a), unit_of(b)) for a, targets in graph.items() for b in targets}
    return {(a, b) for a, b in pairs if a != b}


def forbidden_imports(graph):
    """Imports that point upward or aside, as "importer -> imported"."""
    return [
        f"{module} -> {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if unit_of(target) not in MAY_IMPORT.get(unit_of(module), set()) | {unit_of(module)}
    ]


def find_circle(graph):
    """Modules of which each imports the next and the last the first; [] when there is none."""
    done = set()

    def walk(module, path):
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            circle = walk(target, [*path, module])
            if circle:
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := walk(module, []))), [])


def functions(source):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


@pytest.fixture(scope="module")
def sources():
    return read_sources()


@pytest.fixture(scope="module")
def graph(sources):
    return import_graph(sources)


def test_every_unit_has_its_place(graph):
    assert {unit_of(module) for module in graph} <= MAY_IMPORT.keys()


def test_imports_point_one_way(graph):
    assert forbidden_imports(graph) == []


def test_no_modules_import_one_another_in_a_circle(graph):
    assert find_circle(graph) == []


def test_the_number_of_units_and_of_imports_between_them_is_bounded(graph):
    assert len({unit_of(module) for module in graph}) <= MAX_UNITS
    assert len(unit_edges(graph)) <= MAX_EDGES


def test_files_and_functions_are_short(sources):
    long_files = {name: len(text.splitlines()) for name, text in sources.items()}
    assert {n: lines for n, lines in long_files.items() if lines > MAX_FILE_LINES} == {}
    long_functions = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, text in sources.items()
        for node in functions(text)
    }
    assert {n: lines for n, lines in long_functions.items() if lines > MAX_FUNCTION_LINES} == {}


# Names of statistics, methods and backbones: a value carries what they mean, so no code compares them.
NAMES = {*STATISTICS, *COMPONENTS, *METHODS, *OUTER_DIRECTIONS, *BACKBONES, *INNER_OPTIMIZERS}


def compared_names(source):
    """The names that a comparison mentions, with its line."""
    return [
        (constant.value, node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        for constant in ast.walk(side)
        if isinstance(constant, ast.Constant) and constant.value in NAMES
    ]


def test_no_code_compares_the_names_of_choices(sources):
    tables = {"mamlpp_jax.config.methods"}
    rest = {module: text for module, text in sources.items() if module not in tables}
    found = {module: names for module, text in rest.items() if (names := compared_names(text))}
    assert found == {}
    assert compared_names('if mode == "renorm":\n    pass') == [("renorm", 1)]


@pytest.mark.parametrize("name", ["tasknorm", "renorm"])
def test_a_statistics_mode_stands_in_three_files_at_most(sources, name):
    assert 1 <= sum(name in text for text in sources.values()) <= 3


def closure(module, graph):
    """The modules that importing one brings in, itself too."""
    seen, todo = set(), [module]
    while todo:
        if (module := todo.pop()) not in seen:
            seen.add(module)
            todo += graph.get(module, ())
    return seen


def test_the_outer_step_is_read_in_few_files(graph):
    """Of `algorithms` and `models`, with all that they import."""
    read = closure("mamlpp_jax.algorithms.outer_loop", graph)
    assert len([m for m in read if unit_of(m) in ("algorithms", "models")]) <= 9


def test_the_inner_loop_knows_neither_learner_nor_episode(graph):
    known = {"mamlpp_jax.algorithms.inner_optimizers", "mamlpp_jax.types"}
    assert graph["mamlpp_jax.algorithms.inner_loop"] == known
    signature = inspect.signature(adapt).parameters
    assert not {"learner", "episode", "task"} & set(signature)


# --- The checks themselves ------------------------------------------------------------------------

SOUND = {
    "mamlpp_jax": "from mamlpp_jax import main",
    "mamlpp_jax.errors": "import os",
    "mamlpp_jax.config": "from mamlpp_jax.config import rules",
    "mamlpp_jax.config.rules": "from mamlpp_jax.errors import ConfigError",
    "mamlpp_jax.data": "",
    "mamlpp_jax.data.cache": "from mamlpp_jax import config as config_lib",
    "mamlpp_jax.main": "def run():\n    import mamlpp_jax.data.cache",
}


def test_a_sound_package_passes():
    graph = import_graph(SOUND)
    assert graph["mamlpp_jax.main"] == {"mamlpp_jax.data.cache"}
    assert (forbidden_imports(graph), find_circle(graph)) == ([], [])
    assert unit_edges(graph) == {("config", "errors"), ("data", "config"), ("main", "data")}


@pytest.mark.parametrize(
    ("module", "text", "imported"),
    [
        ("mamlpp_jax.errors", "import mamlpp_jax.main", "mamlpp_jax.main"),
        ("mamlpp_jax.errors", "from mamlpp_jax import main", "mamlpp_jax.main"),
        ("mamlpp_jax.errors", "from mamlpp_jax import load_run", "mamlpp_jax"),
        ("mamlpp_jax.config.rules", "from ..data import cache", "mamlpp_jax.data.cache"),
        (
            "mamlpp_jax.data.cache",
            "def f():\n    from mamlpp_jax.main import run",
            "mamlpp_jax.main",
        ),
        (
            "mamlpp_jax.config.rules",
            "if TYPE_CHECKING:\n    import mamlpp_jax.main as m",
            "mamlpp_jax.main",
        ),
    ],
)
def test_an_import_upward_is_found_wherever_it_stands(module, text, imported):
    assert forbidden_imports(import_graph({**SOUND, module: text})) == [f"{module} -> {imported}"]


def test_a_circle_is_found():
    sources = {
        f"mamlpp_jax.data.{a}": f"from mamlpp_jax.data import {b}" for a, b in ("ab", "bc", "cb")
    }
    circle = find_circle(import_graph({"mamlpp_jax.data": "", **sources}))
    assert circle == ["mamlpp_jax.data.b", "mamlpp_jax.data.c"]
