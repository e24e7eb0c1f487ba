"""A trained model in the hands of someone who has the wheel alone: no checkout, no data, an empty folder."""

import csv
import json
import pathlib

import pytest

from mamlpp_jax.inference.pretrained import shipped_models
from tests.helpers.distributions import run_installed
from tests.helpers.shapes import NAMES, write_shapes

# In the process that has built the wheel.
pytestmark = pytest.mark.xdist_group("packaging")

QUERIES, LEAST_CORRECT = 30, 29
SNIPPET = """
import json, pathlib, sys
from mamlpp_jax import FewShotClassifier

support = sorted(pathlib.Path("support").glob("*/*.png"))
query = sorted(pathlib.Path("query").glob("*.png"))
clf = FewShotClassifier.from_pretrained(sys.argv[1])
clf.fit(support, [path.parent.name for path in support])
predicted = clf.predict(query).tolist()
assert clf.predict_proba(query).argmax(axis=1).tolist() == [
    list(clf.classes_).index(label) for label in predicted
]
clf.save_pretrained("saved")
again = FewShotClassifier.from_pretrained("saved").fit(support, [p.parent.name for p in support])
assert again.predict(query).tolist() == predicted
print(json.dumps({path.name: label for path, label in zip(query, predicted)}))
"""


def count_correct(predictions):
    """Of {"circle-0.png": "circle", ...}."""
    return sum(name.split("-")[0] == label for name, label in predictions.items())


def check(installed, folder, model):
    """The snippet and the command classify shapes with a model."""
    write_shapes(folder, queries=QUERIES // len(NAMES))
    predicted = json.loads(run_installed(installed, folder, "-c", SNIPPET, model))
    assert len(predicted) == QUERIES
    assert count_correct(predicted) >= LEAST_CORRECT, predicted
    flags = [f"--model={model}", "--support=support", "--query=query"]
    outputs = ["--output=predictions.csv", "--figure=predictions.png"]
    command = installed / "bin" / "mamlpp-predict"
    run_installed(installed, folder, command, *flags, *outputs)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = {pathlib.Path(row["file"]).name: row["label"] for row in csv.DictReader(file)}
    assert rows == predicted
    assert (folder / "predictions.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["omniglot"])
def test_a_shipped_model_tells_simple_shapes_apart(installed, tmp_path, name):
    if name not in shipped_models():
        pytest.skip(f"the package has no model {name!r}; python -m experiments.pretrained makes it")
    check(installed, tmp_path, name)


@pytest.mark.slow
def test_the_quickstarts_run_tells_simple_shapes_apart(installed, tmp_path):
    workdir, cache = tmp_path / "quickstart", tmp_path / "cache"
    flags = ["--config=quickstart", f"--workdir={workdir}", f"--config.data.cache_dir={cache}"]
    run_installed(installed, tmp_path, "-m", "mamlpp_jax.main", *flags, timeout=3600)
    (tmp_path / "shapes").mkdir()
    check(installed, tmp_path / "shapes", workdir)
