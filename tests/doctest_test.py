"""Examples in the docstrings of public names run, on the shared beginning that the reference shows."""

import doctest
import inspect
import pathlib
import re

import pytest

import mamlpp_jax

REFERENCE = pathlib.Path(__file__).parents[1] / "docs" / "reference" / "api.md"
# Names whose examples are programs: tutorials, guides and tests have them.
PROGRAMS = {
    *("train", "evaluate", "Outcome", "Callback", "adapt_and_predict", "EpisodeSource"),
    *("load_dataset", "make_sampler", "FewShotClassifier", "export_adaptation"),
    *("load_run", "TrainedRun"),
}
# A dictionary and instances, whose classes have the examples.
VALUES = {"STATISTICS", "cross_entropy", "fixed_tasks", "__version__"}


def example_owner(name):
    value = getattr(mamlpp_jax, name)
    return type(value) if name in ("cross_entropy", "fixed_tasks") else value


@pytest.fixture(scope="module")
def beginning():
    program = re.search(r"```python\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(program[1], names)
    return names


@pytest.mark.parametrize("name", sorted(set(mamlpp_jax.__all__) - PROGRAMS - {*VALUES}))
def test_the_example_of_a_public_name_runs(beginning, name):
    value = example_owner(name)
    check(inspect.getdoc(value), name, beginning)


def test_examples_of_public_instances_run(beginning):
    for name in ("cross_entropy", "fixed_tasks"):
        check(inspect.getdoc(example_owner(name)), name, beginning)


def check(text, name, beginning):
    test = doctest.DocTestParser().get_doctest(text, dict(beginning), name, None, None)
    assert test.examples, f"{name} has no example"
    output = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)
