"""Own parts in a configured run: trained, killed and resumed, evaluated, predicted with, and never imported unasked."""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

import mamlpp_jax as maml
from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.trained_run import load_best
from tests.helpers.command_lines import run
from tests.helpers.small_runs import small_config

PARTS = pathlib.Path(__file__).parents[1] / "helpers" / "own_parts" / "my_parts.py"
FIELDS = {
    "model.filters": 64,
    "model.name": "my_parts:Tokens",
    "model.options": '{"width": 5}',
    "inner.optimizer": "my_parts:momentum",
    "inner.options": '{"decay": 0.4}',
    "inner.loss": "my_parts:weighted",
    "data.name": "my_parts:episodes",
    "task.shot": 2,
    "task.query": 2,
    "checkpoint.every_minutes": 1e-9,
    "compute.steps_per_dispatch": 1,
}


def forget():
    for name in [name for name in sys.modules if name == "my_parts"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the parts, which Python searches."""
    place = tmp_path_factory.mktemp("parts")
    shutil.copy(PARTS, place)
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    forget()


def own_config(**fields):
    return small_config(**{**FIELDS, **fields})


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run with parts of its own, finished in process."""
    workdir = tmp_path_factory.mktemp("runs") / "own"
    return maml.train(own_config(), workdir)


class CrashError(Exception):
    """Ends a training after some steps."""


class Crash(maml.Callback):
    """Ends a training at the n-th news of steps."""

    def __init__(self, times):
        self.left = times

    def on_steps(self, records):
        self.left -= 1
        if self.left == 0:
            raise CrashError


def test_a_run_of_own_parts_is_resumed_bit_for_bit_and_refused_with_other_source(
    trained, folder, tmp_path
):
    with pytest.raises(CrashError):
        maml.train(own_config(), tmp_path, [Crash(4)])
    source = folder / "my_parts.py"
    whole = source.read_text()
    try:
        source.write_text(whole + "\n# another\n")
        with pytest.raises(MamlppError, match=r"my_parts was another .* --allow_code_change"):
            maml.train(own_config(), tmp_path)
    finally:
        source.write_text(whole)
    outcome = maml.train(own_config(), tmp_path)
    metrics = [(place / "metrics.jsonl").read_bytes() for place in (tmp_path, trained.workdir)]
    assert metrics[0] == metrics[1]
    for ours, theirs in zip(outcome.members, trained.members, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.meta, theirs.meta)
    assert outcome.evaluations == trained.evaluations


def test_the_command_gives_the_same_numbers_and_refuses_code_of_a_stored_file(trained, folder):
    workdir = trained.workdir
    stored = ["--mode=evaluate", f"--workdir={workdir}", "--tasks=5"]
    forget()
    for arguments in (stored, [f"--config={workdir / 'config.json'}", f"--workdir={workdir}x"]):
        refusal = run("main", *arguments)
        assert refusal.code == 2
        assert "model.name=my_parts:Tokens" in refusal.paragraph
        assert "--allow_code" in refusal.paragraph
        assert "my_parts" not in sys.modules
    with pytest.raises(MamlppError, match="allow_code=True"):
        maml.load_run(workdir)
    with pytest.raises(MamlppError, match="allow_code=True"):
        maml.evaluate(workdir)
    assert "my_parts" not in sys.modules
    assert run("main", *stored, "--allow_code").code is None  # it would compile now
    again = maml.evaluate(workdir, allow_code=True)
    assert [e.accuracy for e in again.evaluations] == [e.accuracy for e in trained.evaluations]


def test_a_foreign_model_that_names_code_imports_nothing(trained, tmp_path):
    save_model(tmp_path / "model", from_runs(load_best(trained.workdir, 2, allow_code=True)))
    forget()
    for load in (maml.FewShotClassifier.from_pretrained, find_model):
        with pytest.raises(
            MamlppError, match=r"names code of its own .*model.name=my_parts:Tokens"
        ):
            load(tmp_path / "model")
    config = small_config(**{"train.start_from": str(tmp_path / "model")})
    with pytest.raises(MamlppError, match="names code of its own"):
        maml.train(config)
    assert "my_parts" not in sys.modules
    with pytest.raises(MamlppError, match="adapt_and_predict"):
        maml.FewShotClassifier.from_pretrained(tmp_path / "model", allow_code=True)


def test_tokens_are_learned_and_predicted(trained):
    source = __import__("my_parts").episodes()
    episodes = source.test(jax.random.key(3), np.arange(4))
    outcome = maml.evaluate(trained, episodes, adapted=True, statistics="support")
    one = jax.tree.map(lambda leaf: leaf[0], episodes)
    logits = maml.adapt_and_predict(trained, one.support, one.query.inputs)
    np.testing.assert_allclose(logits, outcome.predictions.logits[0, -1], atol=1e-5)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(outcome.adapted)} == {4}
    assert outcome.evaluations[0].shot == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model.name": "no_such_module:Net"}, "no module 'no_such_module'"),
        ({"model.name": "my_parts:Tokenz"}, r"no 'Tokenz' \(did you mean Tokens"),
        ({"model.name": "broken_parts:Net"}, r"raises ZeroDivisionError \(broken_parts.py, line 1"),
        ({"model.name": "circle_a:Net"}, "importing circle_a raises ImportError"),
        ({"model.name": "my parts:Net"}, "module:attribute"),
        ({"model.name": "my_parts:LENGTH"}, "must be callable"),
        ({"model.name": "my_parts:raises"}, "raises RuntimeError: no luck"),
        ({"model.name": "my_parts:momentum"}, r"momentum\(ways=3, .* raises TypeError"),
        ({"model.options": '{"width": 5'}, "must be a JSON object"),
        ({"model.options": '{"widht": 5}'}, "unexpected keyword argument 'widht'"),
        ({"inner.optimizer": "my_parts:weighted", "inner.options": "{}"}, "raises TypeError"),
        ({"data.name": "my_parts:Tokens", "data.options": '{"ways": 2}'}, "EpisodeSource"),
        ({"data.options": '{"way": 4}'}, "labels are from 0 to 3, but config.task.way is 3"),
        ({"model.name": "conv4"}, "model.options is .* does not take"),
    ],
)
def test_what_cannot_be_imported_or_called_is_one_sentence(folder, fields, words):
    (folder / "broken_parts.py").write_text("x = 1 / 0\n")
    (folder / "circle_a.py").write_text("from circle_b import B\nNet = B\n")
    (folder / "circle_b.py").write_text("from circle_a import Net\nB = Net\n")
    with pytest.raises(MamlppError, match=words) as caught:
        maml.train(own_config(**fields))
    assert "\n" not in str(caught.value)


def test_options_are_compared_as_objects_and_round_trip(trained):
    stored = json.loads((trained.workdir / "config.json").read_text())
    assert config_lib.from_dict(stored).model.options == FIELDS["model.options"]
    other = own_config(**{"model.options": '{"width":5}'})
    Workdir(trained.workdir).check_owner(other)
    with pytest.raises(MamlppError, match=r"model.options"):
        Workdir(trained.workdir).check_owner(own_config(**{"model.options": '{"width": 6}'}))
    assert commands.train(other, Workdir(trained.workdir)).results["finished"]


def test_the_current_folder_is_searched_as_by_python_m(folder, tmp_path, monkeypatch):
    shutil.copy(PARTS, tmp_path / "parts_here.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    arguments = ["--config=quickstart", "--config.data.name=parts_here:episodes"]
    arguments += ['--config.data.options={"way": 5}', "--config.model.name=parts_here:Tokens"]
    arguments += ["--config.model.filters=64", f"--workdir={tmp_path / 'run'}"]
    done = run("main", *arguments)
    assert (done.code, done.paragraph) == (None, "")  # it would compile now
    assert sys.path[0] == str(tmp_path)
    missing = run("main", *arguments, "--config.model.name=parts_there:Tokens")
    assert "no module 'parts_there' in the current folder" in missing.paragraph
