"""Saved models: read as they were written, and refused by name when they are anything else."""

import dataclasses
import hashlib
import json
import pickle
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.errors import MamlppError, ModelError
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import load_model, save_model
from tests.helpers.cards import front_matter
from tests.helpers.fuzzing import cases, damaged, fuzz, sandbox
from tests.helpers.refusals import refused
from tests.helpers.small_models import colour_config, drawings, small_model, small_workdir
from tests.helpers.small_runs import small_config

__all__ = ["sandbox"]  # a fixture


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "saved", small_model(members=2))
    return tmp_path / "saved"


def edit(folder, change, name="model.json"):
    """Changes the content of a JSON file."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_weights(folder, arrays):
    """Writes other arrays with their checksum."""
    content = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, lambda c: c.update(sha256=hashlib.sha256(content).hexdigest()))


def same(a, b):
    assert a.image_format == b.image_format
    assert a.config == b.config
    assert (a.steps, a.statistics, a.inner_steps) == (b.steps, b.statistics, b.inner_steps)
    for one, other in zip((a.meta, a.batch_stats), (b.meta, b.batch_stats), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert jax.tree.structure(one) == jax.tree.structure(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_model(members=2),
        lambda: small_model(small_config("maml")),
        lambda: small_model(small_config("anil+lslr")),
        lambda: small_model(small_config("metasgd+boil")),
        lambda: small_model(small_config("maml++", **{"norm.train_statistics": "tasknorm"})),
        lambda: small_model(colour_config(), channels=3),
        lambda: small_model(small_config(**{"model.max_pool": False})),
    ],
)
def test_a_model_is_read_as_it_was_written(tmp_path, make):
    save_model(tmp_path, make())
    same(load_model(tmp_path), make())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["README.md", "config.json", "model.json", "model.safetensors"]


def test_predictions_and_settings_survive_saving(tmp_path):
    images, labels = drawings(5), list("abcab")
    clf = FewShotClassifier(small_model(), inner_steps=3, polarity="dark_on_light")
    expected = clf.fit(images, labels).predict_proba(images)
    clf.save_pretrained(tmp_path / "new" / "folder")
    again = FewShotClassifier.from_pretrained(tmp_path / "new" / "folder")
    assert (again.model.inner_steps, again.model.image_format.polarity) == (3, "dark_on_light")
    np.testing.assert_array_equal(again.fit(images, labels).predict_proba(images), expected)


SUPPORT, LABELS, QUERIES = drawings(5), list("abcab"), drawings(4, seed=1)


def fitted(labels=tuple(LABELS), **settings):
    return FewShotClassifier(small_model(members=2), **settings).fit(SUPPORT, list(labels))


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (LABELS, {"reject_below": 0.4, "inner_steps": 3}),
        ([1, 1, None, 1, ("a", 2.5)], {"statistics": "running"}),
    ],
)
def test_what_was_learned_is_read_bit_for_bit(tmp_path, labels, settings):
    clf = fitted(labels, **settings)
    clf.save_pretrained(tmp_path)
    again = FewShotClassifier.from_pretrained(tmp_path)
    assert again.classes_.tolist() == clf.classes_.tolist()
    assert again.classes_.dtype == clf.classes_.dtype
    assert again.reject_below == clf.reject_below
    for use in ("predict_log_proba", "embed", "familiarity"):
        np.testing.assert_array_equal(getattr(again, use)(QUERIES), getattr(clf, use)(QUERIES))
    assert again.predict(QUERIES).tolist() == clf.predict(QUERIES).tolist()
    again.save_pretrained(tmp_path / "again")
    first, second = (f / "fitted.safetensors" for f in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.filterwarnings("ignore:With `batch`")
def test_classes_learned_with_batch_statistics_are_saved(tmp_path):
    clf = fitted(statistics="batch")
    clf.save_pretrained(tmp_path)
    again = FewShotClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(QUERIES), clf.predict_proba(QUERIES))


def test_classes_of_other_settings_are_left_out_with_a_warning(tmp_path):
    fitted().save_pretrained(tmp_path)
    for settings in ({"inner_steps": 7}, {"statistics": "running"}, {"ensemble": 1}):
        with pytest.warns(UserWarning, match="learned with other settings"):
            clf = FewShotClassifier.from_pretrained(tmp_path, **settings)
        assert not hasattr(clf, "classes_")
    assert FewShotClassifier.from_pretrained(tmp_path, reject_below=0.5).reject_below == 0.5


def test_a_label_that_cannot_be_saved_is_named(tmp_path):
    with pytest.warns(UserWarning, match=r"without its classes: the label .*b'a'") as caught:
        fitted([b"a", b"b", b"a", b"b", b"a"]).save_pretrained(tmp_path)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not hasattr(FewShotClassifier.from_pretrained(tmp_path), "classes_")


def test_an_unfitted_model_replaces_a_fitted_one(tmp_path):
    fitted().save_pretrained(tmp_path)
    assert (tmp_path / "fitted.safetensors").exists()
    FewShotClassifier(small_model()).save_pretrained(tmp_path)
    assert not (tmp_path / "fitted.safetensors").exists()
    assert not hasattr(FewShotClassifier.from_pretrained(tmp_path), "classes_")


def test_a_temperature_makes_a_model_less_sure(tmp_path):
    cold = fitted()
    warm = FewShotClassifier(dataclasses.replace(cold.model, temperature=4.0)).fit(SUPPORT, LABELS)
    warm.save_pretrained(tmp_path)
    probabilities = FewShotClassifier.from_pretrained(tmp_path).predict_proba(QUERIES)
    expected = cold.predict_proba(QUERIES) ** 0.25
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def damaged_classes(**entries):
    return lambda folder: edit(folder, lambda content: content["fitted"].update(entries))


def with_fitted_arrays(change):
    def apply(folder):
        arrays = safetensors.numpy.load_file(folder / "fitted.safetensors")
        content = safetensors.numpy.save(change(arrays))
        (folder / "fitted.safetensors").write_bytes(content)
        damaged_classes(sha256=hashlib.sha256(content).hexdigest())(folder)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "fitted.safetensors").unlink(), r"fitted\.safetensors"),
        (lambda f: (f / "fitted.safetensors").write_bytes(b""), r"fitted\.safetensors is damaged"),
        (damaged_classes(classes=["a", "b"]), r"fitted\.safetensors"),
        (damaged_classes(classes=["a", "b", "b"]), r"model\.json is damaged"),
        (damaged_classes(classes=["a", "b", ["c"]]), r"model\.json is damaged"),
        (damaged_classes(dtype="<i8"), r"model\.json is damaged"),
        (damaged_classes(reject_below="high"), r"model\.json is damaged"),
        (damaged_classes(reject_below=7), r"model\.json is damaged.*reject_below"),
        (lambda f: edit(f, lambda c: c.update(fitted=3)), r"model\.json is damaged"),
        (with_fitted_arrays(lambda a: {**a, "more": a["support"]}), "'more'"),
        (with_fitted_arrays(lambda a: {k: a[k] for k in a if k != "support"}), "'support'"),
        (with_fitted_arrays(lambda a: {**a, "targets": a["targets"] * 0}), "targets"),
        (with_fitted_arrays(lambda a: {**a, "targets": a["targets"][:1]}), "targets"),
        (with_fitted_arrays(lambda a: {**a, "support": a["support"][:, 1:]}), "'support'"),
    ],
)
def test_damaged_classes_are_refused_by_name(tmp_path, damage, said):
    fitted().save_pretrained(tmp_path)
    damage(tmp_path)
    with refused(tmp_path, said):
        FewShotClassifier.from_pretrained(tmp_path)


def test_the_whole_configuration_is_there_without_folders(tmp_path):
    fields = {"data.cache_dir": "/here", "data.manual_dir": "/there", "train.clip_norm": 3.0}
    config = small_config(**fields)
    save_model(tmp_path, small_model(config))
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["data"].pop("cache_dir") == stored["data"].pop("manual_dir") == ""
    expected = config.to_dict()
    del expected["data"]["cache_dir"], expected["data"]["manual_dir"]
    assert stored == expected


def test_the_description_says_what_preprocessing_needs(folder):
    content = json.loads((folder / "model.json").read_text())
    assert content["format_version"] == 2
    assert content["image"] == {
        "size": 16,
        "channels": 1,
        "mean": [0.0],
        "std": [1.0],
        "polarity": "auto",
    }


def test_tensors_have_plain_names(folder):
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {"params/conv0/kernel", "norm/norm0/scale", "inner/linear/bias"} <= arrays.keys()
    assert "batch_stats/norm0/mean" in arrays
    assert {len(array) for array in arrays.values()} == {2}


def test_the_card_has_front_matter_and_is_kept(folder, tmp_path):
    card = (folder / "README.md").read_text()
    assert re.match(r"---\n(.+\n)+---\n\n# glyphs, 3-way 1-shot\n", card)
    found = front_matter(card)
    assert found.keys() == {"library_name", "pipeline_tag", "tags"}
    assert found["pipeline_tag"] == "image-classification"
    assert "few-shot-learning" in found["tags"]
    (folder / "README.md").write_text("my own words")
    save_model(tmp_path / "copy", load_model(folder))
    assert (tmp_path / "copy" / "README.md").read_text() == "my own words"
    (folder / "README.md").unlink()
    assert load_model(folder).card == ""


def test_a_changed_model_says_so_in_its_card(folder, tmp_path):
    before = (folder / "README.md").read_text()
    FewShotClassifier.from_pretrained(folder, inner_steps=2).save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / "README.md").read_text() == before
    clf = FewShotClassifier.from_pretrained(folder, inner_steps=7, polarity="dark_on_light")
    clf.save_pretrained(tmp_path / "changed")
    card = (tmp_path / "changed" / "README.md").read_text()
    assert card.startswith(before.rstrip())
    for part in ("`support` statistics", "7 inner steps", "steps 0, 1", "dark_on_light"):
        assert part in card[len(before.rstrip()) :].replace("\n", " ")
    save_model(tmp_path / "fewer", load_model(tmp_path / "changed").first_members(1))
    fewer = (tmp_path / "fewer" / "README.md").read_text()
    assert fewer.count("## Changed since") == 1
    assert "of outer steps 0, polarity" in fewer.replace("\n", " ")


def test_the_card_of_a_run_names_the_settings_in_use(tmp_path):
    clf = FewShotClassifier(small_model(), inner_steps=9)
    clf.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| used with | 9 inner steps, `support` statistics |" in card
    assert "Changed since" not in card


def test_nothing_is_compiled_to_read_a_model(folder):
    with refused(folder.parent, "damaged"):
        load_model(folder)
        raise ModelError("damaged")


def test_a_saved_model_is_replaced(folder):
    save_model(folder, small_model())
    same(load_model(folder), small_model())


def test_a_runs_folder_is_not_overwritten(tmp_path):
    workdir = small_workdir(tmp_path / "run")
    with refused(tmp_path, r"run/config\.json is not a saved model's"):
        save_model(workdir, small_model())


def delete(name):
    return lambda folder: (folder / name).unlink()


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def with_arrays(change):
    def apply(folder):
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        replace_weights(folder, change(arrays))

    return apply


def unreadable(content):
    def apply(folder):
        (folder / "model.safetensors").write_bytes(content)
        edit(folder, lambda c: c.update(sha256=hashlib.sha256(content).hexdigest()))

    return apply


def set_entry(**entries):
    return lambda folder: edit(folder, lambda content: content.update(entries))


def set_image(**entries):
    return lambda folder: edit(folder, lambda content: content["image"].update(entries))


def test_a_model_saved_before_a_field_existed_has_its_default(folder):
    def without_later_fields(stored):
        del stored["model"]["shared_head"], stored["inner"]["adapts"], stored["train"]["clip_norm"]

    expected = load_model(folder).config
    edit(folder, without_later_fields, "config.json")
    assert load_model(folder).config == expected


def test_a_model_trained_with_an_option_that_was_removed_can_be_used(folder):
    expected = load_model(folder)
    edit(folder, lambda stored: stored["inner"].update(rate_decay=1.0), "config.json")
    same(load_model(folder), expected)


def set_trained(name, value):
    section, _, key = name.partition(".")
    return lambda folder: edit(folder, lambda c: c[section].update({key: value}), "config.json")


KERNEL = "params/conv0/kernel"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (delete("config.json"), r"config\.json"),
        (delete("model.json"), r"config\.json is not a saved model's"),
        (delete("model.safetensors"), r"model\.safetensors"),
        (flip_a_bit, r"model\.safetensors is damaged"),
        (cut_off, r"model\.safetensors is damaged"),
        (unreadable(b""), r"model\.safetensors is not readable"),
        (unreadable(pickle.dumps({"a": 1})), r"model\.safetensors is not readable"),
        (unreadable(b"\xff" * 64), r"model\.safetensors is not readable"),
        (with_arrays(lambda a: {**a, "more": a[KERNEL]}), "has, unlike .* 'more'"),
        (with_arrays(lambda a: {k: a[k] for k in a if k != KERNEL}), f"not have .*{KERNEL}"),
        (with_arrays(lambda a: {**a, KERNEL: a[KERNEL][:, :2]}), rf"{KERNEL}' as .* \(2, 2, 3"),
        (with_arrays(lambda a: {**a, KERNEL: a[KERNEL].astype("f2")}), rf"{KERNEL}' as float16"),
        (with_arrays(lambda a: {k: a[k][:1] for k in a}), r"\(1, .* \(2, "),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not readable"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json is damaged"),
        (lambda f: (f / "config.json").write_text("{}"), r"config\.json does not fit .* is empty"),
        (lambda f: (f / "model.json").write_text("{"), r"model\.json is not readable"),
        (lambda f: (f / "model.json").write_text("[]"), r"model\.json is not a saved model's"),
        (set_entry(format="other"), r"model\.json is not a saved model's"),
        (set_entry(format_version=3), "version 3; .* reads version 2"),
        (set_entry(format_version=None), "version None"),
        (set_entry(dtype="float64"), '"dtype" must be float16 or float32'),
        (set_entry(dtype="float16"), r"as float32 .*it is float16"),
        (set_entry(statistics="mean"), "statistics is 'mean'; choose one of batch"),
        (set_entry(statistics="tasknorm"), "the model is trained with batch statistics"),
        (set_entry(inner_steps=0), "inner_steps is 0"),
        (set_entry(steps=[]), '"steps" must be'),
        (set_entry(steps=[1]), r"model\.safetensors has the array"),
        (set_entry(image=None), r"model\.json is damaged"),
        (set_image(size=0), "image_size is 0"),
        (set_image(size=32), "has the array"),
        (set_image(channels=2), '"channels" must be'),
        (set_image(channels=3, polarity=None), "has the array"),
        (set_image(channels=3), '"polarity" must be'),
        (set_image(polarity="odd"), '"polarity" must be'),
        (set_image(mean=[0.0, 0.0]), '"mean" and "std" must have'),
        (set_image(std=[0.0]), '"std" positive'),
        (set_image(mean=[float("nan")]), "must be finite"),
        (set_image(mean="ab"), r"model\.json is damaged"),
        (set_trained("model.filters", 5), "has the array"),
        (set_trained("model.filters", 2**31 - 1), "array|no network"),
        (set_trained("model.name", "vgg"), "model.name is 'vgg'"),
        (set_trained("task.way", "many"), "task.way is 'many'"),
        (set_trained("task.wya", 5), r"config\.task\.wya is not a field"),
        (set_entry(inner_steps="two"), "train.inner_steps is 'two'"),
        (
            lambda f: edit(f, lambda c: c.pop("steps")),
            r"model\.json is damaged: 'steps' is missing",
        ),
        (lambda f: edit(f, lambda c: c.pop("sha256")), "its SHA-256 differs"),
    ],
)
def test_a_damaged_newer_or_foreign_file_is_refused_by_name(folder, damage, said):
    damage(folder)
    with refused(folder, said):
        load_model(folder)


# ---- whatever the files hold ----

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["size", "mean"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)


def reads(sandbox, folder):
    with sandbox.reads():
        clf = FewShotClassifier.from_pretrained(folder)
        assert clf.model.way >= 2


@cases()
def test_whatever_the_json_files_hold(count, sandbox):
    folder = sandbox.inside
    fitted().save_pretrained(folder)
    whole = {name: (folder / name).read_text() for name in ("config.json", "model.json")}
    paths = [
        (name, key, *inner)
        for name, text in whole.items()
        for key, value in json.loads(text).items()
        for inner in [(), *((key,) for key in (value if isinstance(value, dict) else ()))]
    ]

    def changed(path, value):
        name, *sections, last = path
        content = inner = json.loads(whole[name])
        for section in sections:
            inner = inner[section]
        inner[last] = value
        return name, json.dumps(content).encode()

    files = st.builds(changed, st.sampled_from(paths), VALUES)
    for name, text in whole.items():
        files |= st.tuples(st.just(name), damaged([text.encode()], most=2))

    def check(file):
        name, content = file
        (folder / name).write_bytes(content)
        reads(sandbox, folder)
        (folder / name).write_text(whole[name])

    fuzz(sandbox, count, files, check)


@cases()
def test_whatever_the_weights_hold(count, sandbox):
    """Their checksum is right, so that the reader of the format sees them."""
    folder = sandbox.inside
    save_model(folder, small_model())
    whole = (folder / "model.safetensors").read_bytes()
    description = json.loads((folder / "model.json").read_text())

    def check(weights):
        (folder / "model.safetensors").write_bytes(weights)
        description["sha256"] = hashlib.sha256(weights).hexdigest()
        (folder / "model.json").write_text(json.dumps(description))
        reads(sandbox, folder)

    fuzz(sandbox, count, damaged([whole], most=2), check)


@cases()
def test_whatever_the_learned_arrays_hold(count, sandbox):
    folder = sandbox.inside
    fitted().save_pretrained(folder)
    whole = (folder / "fitted.safetensors").read_bytes()
    description = json.loads((folder / "model.json").read_text())

    def check(arrays):
        (folder / "fitted.safetensors").write_bytes(arrays)
        description["fitted"]["sha256"] = hashlib.sha256(arrays).hexdigest()
        (folder / "model.json").write_text(json.dumps(description))
        reads(sandbox, folder)

    fuzz(sandbox, count, damaged([whole], most=2), check)


def test_every_error_is_one_of_ours():
    assert issubclass(ModelError, MamlppError)


def test_models_load_in_64_bit_mode_and_those_saved_there_outside_it(tmp_path):
    usual = find_model("glyphs")
    with jax.enable_x64(True):
        save_model(tmp_path / "wide", find_model("glyphs"))
        wide = load_model(tmp_path / "wide")
    for other in (wide, load_model(tmp_path / "wide")):
        jax.tree.map(np.testing.assert_array_equal, usual.meta, other.meta)
        jax.tree.map(np.testing.assert_array_equal, usual.batch_stats, other.batch_stats)
