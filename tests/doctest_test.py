"""Examples in the docstrings of public names run, on the shared beginning that the reference shows."""

import doctest
import inspect
import pathlib
import re

import pytest

import mamlpp_jax

REFERENCE = pathlib.Path(__file__).parents[1] / "docs" / "reference" / "api.md"
# Names whose examples go on with the reference's second program, which makes a configuration and images.
WITH_IMAGES = ["EpisodeSource", "FewShotClassifier", "export_adaptation", "load_dataset"]
WITH_IMAGES += ["make_sampler"]
# Names whose examples go on with the run of `train`'s.
WITH_RUN = ["Outcome", "TrainedRun", "adapt_and_predict", "evaluate", "load_run"]
# Instances, whose classes have the examples.
INSTANCES = ["cross_entropy", "fixed_tasks"]
# A dictionary and a string have no docstring; the example of `Statistics` reads the dictionary.
VALUES = ["STATISTICS", "__version__"]
OTHERS = set(mamlpp_jax.__all__) - {*WITH_IMAGES, *WITH_RUN, "train", *VALUES}


@pytest.fixture(scope="module")
def programs():
    return re.findall(r"```python\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def beginning(programs):
    names = {}
    exec(programs[0], names)
    return names


@pytest.fixture(scope="module")
def images(programs, beginning):
    names = dict(beginning)
    exec(programs[1], names)
    return names


@pytest.fixture(scope="module")
def run(images):
    return check("train", images)


def check(name, names):
    """Runs the example of a public name, and returns the names that it leaves."""
    value = getattr(mamlpp_jax, name)
    text = inspect.getdoc(type(value) if name in INSTANCES else value)
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, None, None)
    assert test.examples, f"{name} has no example"
    output = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=output.append, clear_globs=False)
    assert not runner.failures, "".join(output)
    return test.globs


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_example_of_a_public_name_runs(beginning, name):
    check(name, beginning)


@pytest.mark.xdist_group("examples of images")
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_the_example_with_images_runs(images, name):
    check(name, images)


@pytest.mark.xdist_group("examples of images")
@pytest.mark.parametrize("name", WITH_RUN)
def test_the_example_of_train_runs_and_those_that_go_on_with_it(run, name):
    check(name, run)
