"""The classifier as a user meets it: labels of any kind, images alone or together, clear errors."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.algorithms.evaluation import task_logits
from mamlpp_jax.data.episodes import normalize
from mamlpp_jax.errors import ConfigError, DataError, MamlppError, ModelError, NotFittedError
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.models.head import with_ways
from mamlpp_jax.types import Batch, Episode
from tests.helpers.refusals import compilations
from tests.helpers.small_models import WAY, colour_config, drawings, small_model
from tests.helpers.small_runs import small_config

SUPPORT, LABELS = drawings(5), ["a", "b", "b", "c", "b"]
QUERIES = drawings(10, seed=1)

# One process compiles for all of these tests.
pytestmark = pytest.mark.xdist_group("classifier")


def classifier(model=None, **settings):
    return FewShotClassifier(model or small_model(), **settings)


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(SUPPORT, LABELS)


def test_it_has_the_habits_of_scikit_learn(fitted):
    probabilities = fitted.predict_proba(QUERIES)
    assert probabilities.shape == (10, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    predicted = fitted.predict(QUERIES)
    assert list(fitted.classes_) == ["a", "b", "c"]
    assert list(predicted) == [fitted.classes_[row.argmax()] for row in probabilities]
    assert fitted.score(QUERIES, predicted) == 1.0
    assert fitted.score(QUERIES, ["unknown", *predicted[1:]]) == pytest.approx(0.9)


def test_fit_learns_the_support_set():
    """With enough steps even random weights fit what they are shown."""
    clf = classifier(inner_steps=30).fit(SUPPORT, LABELS)
    assert clf.score(SUPPORT, LABELS) == 1.0


@pytest.mark.filterwarnings("ignore:With `batch`")
@pytest.mark.parametrize(
    ("statistics", "inner_steps"), [("support", 2), ("batch", 3), ("running", 1)]
)
def test_predictions_are_those_of_the_evaluation(statistics, inner_steps):
    """The two paths differ: one computes everything in one function, the other keeps what was learned."""
    model = small_model()
    clf = classifier(model, statistics=statistics, inner_steps=inner_steps)
    clf.fit(SUPPORT, LABELS)
    np.testing.assert_allclose(clf.predict_proba(QUERIES), evaluated(clf, model), atol=1e-5)


def evaluated(clf, model):
    """What the evaluation of runs predicts for the queries."""
    learner = clf.configured.learner(3)
    meta, stats = jax.tree.map(lambda leaf: leaf[0], (model.meta, model.batch_stats))
    support, query = (
        normalize(clf.preprocess(images), (0.0,), (1.0,)) for images in (SUPPORT, QUERIES)
    )
    labels = np.array([list(clf.classes_).index(label) for label in LABELS])
    logits = jax.jit(partial(task_logits, learner, every_step=False))(
        with_ways(meta, 3),
        stats,
        Episode(Batch(support, labels), Batch(query, np.zeros(10, int))),
    )
    return jax.nn.softmax(logits[0, 0])


@pytest.mark.parametrize("statistics", ["support", "running"])
def test_one_query_at_a_time_equals_the_batch(statistics):
    clf = classifier(statistics=statistics).fit(SUPPORT, LABELS)
    together = clf.predict_proba(QUERIES)
    alone = np.concatenate([clf.predict_proba(query) for query in QUERIES])
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("statistics", ["running", "renorm"])
def test_averaged_weights_have_no_running_statistics(statistics):
    model = small_model(small_config(**{"train.average_decay": 0.9}))
    with pytest.raises(
        ConfigError, match=rf"statistics is '{statistics}', but .* a moving average of weights"
    ):
        classifier(model, statistics=statistics).fit(SUPPORT, LABELS)
    assert classifier(statistics=statistics).configured.statistics == statistics


def test_a_tasknorm_model_is_used_with_tasknorm_and_other_models_are_not():
    model = small_model(small_config("tasknorm"))
    for layer in model.meta.norm.values():
        layer["blend"] = np.broadcast_to(np.array([0.3, -1.0], np.float32), layer["blend"].shape)
    clf = classifier(model).fit(SUPPORT, LABELS)
    assert clf.configured.statistics == "tasknorm"
    together = clf.predict_proba(QUERIES)
    alone = np.concatenate([clf.predict_proba(query) for query in QUERIES])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(together, evaluated(clf, model), atol=1e-5)
    by_support = classifier(model, statistics="support").fit(SUPPORT, LABELS)
    assert abs(by_support.predict_proba(QUERIES) - together).max() > 1e-4
    with pytest.raises(ConfigError, match=r"'tasknorm', but the model is trained with batch"):
        classifier(statistics="tasknorm").fit(SUPPORT, LABELS)


def test_batch_statistics_warn_and_depend_on_the_neighbours():
    clf = classifier(statistics="batch")
    with pytest.warns(UserWarning, match="`batch` statistics"):
        clf.fit(SUPPORT, LABELS)
    together = clf.predict_proba(QUERIES)
    assert abs(clf.predict_proba(QUERIES[:1]) - together[:1]).max() > 1e-4


def test_other_numbers_of_queries_compile_nothing_new(fitted):
    many = drawings(130, seed=2)
    expected = fitted.predict_proba(many)
    fitted.predict_proba(QUERIES[:1])
    before = compilations()
    for count in (2, 7, 8, 9, 33, 64, 65, 129):
        np.testing.assert_allclose(fitted.predict_proba(many[:count]), expected[:count], atol=1e-5)
    assert compilations() == before


def test_another_task_of_the_same_shape_compiles_nothing_new(fitted):
    fitted.predict(QUERIES)
    first = fitted.predict_proba(QUERIES)
    before = compilations()
    second = fitted.fit(drawings(5, seed=3), LABELS).predict_proba(QUERIES)
    fitted.fit(SUPPORT, LABELS)
    assert compilations() == before
    assert abs(second - first).max() > 1e-4


def test_the_order_of_the_images_does_not_matter(fitted):
    order = [4, 2, 0, 3, 1]
    other = classifier().fit(SUPPORT[order], [LABELS[n] for n in order])
    np.testing.assert_allclose(
        other.predict_proba(QUERIES), fitted.predict_proba(QUERIES), atol=1e-5
    )


def test_more_classes_than_trained_warn():
    clf = classifier()
    with pytest.warns(UserWarning, match=rf"5 classes are more than the {WAY}"):
        clf.fit(SUPPORT, range(5))
    assert clf.predict_proba(QUERIES).shape == (10, 5)


def test_an_ensemble_averages_the_logits_of_its_members():
    model, members = small_model(members=3), []
    for n in range(3):
        meta, stats = jax.tree.map(
            lambda leaf, n=n: leaf[n : n + 1], (model.meta, model.batch_stats)
        )
        members.append(classifier(dataclasses.replace(model, meta=meta, batch_stats=stats)))
    logits = [np.log(member.fit(SUPPORT, LABELS).predict_proba(QUERIES)) for member in members]
    averaged = np.exp(np.mean(logits, axis=0))
    averaged /= averaged.sum(axis=1, keepdims=True)
    found = classifier(model).fit(SUPPORT, LABELS).predict_proba(QUERIES)
    np.testing.assert_allclose(found, averaged, atol=1e-5)
    assert abs(found - members[0].predict_proba(QUERIES)).max() > 1e-4


def test_writing_of_either_polarity_is_the_same(fitted):
    np.testing.assert_array_equal(
        fitted.predict_proba(255 - QUERIES), fitted.predict_proba(QUERIES)
    )


def test_models_of_colour_images():
    photos = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8)
    clf = classifier(small_model(colour_config(), channels=3)).fit(photos, [0, 1, 0, 1])
    assert clf.predict_proba([photos[0], drawings(1)[0]]).shape == (2, 2)


def test_without_batch_norm_statistics_per_step():
    clf = classifier(small_model(small_config("maml"))).fit(SUPPORT, LABELS)
    assert np.isfinite(clf.predict_proba(QUERIES)).all()


@pytest.mark.parametrize(
    "use",
    [
        lambda clf: clf.predict(QUERIES),
        lambda clf: clf.predict_proba(QUERIES),
        lambda clf: clf.score(QUERIES, range(10)),
        lambda clf: clf.classes_,
        lambda clf: clf.export("file"),
    ],
)
def test_before_fit_there_is_a_clear_error(use):
    with pytest.raises(NotFittedError, match=r"call fit\(images, labels\) first"):
        use(classifier())


def test_before_fit_there_are_no_classes_to_ask_for():
    assert not hasattr(classifier(), "classes_")
    assert issubclass(NotFittedError, MamlppError)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (SUPPORT, ["a"] * 5, r"1 class\(es\)"),
        (SUPPORT, [], r"0 class\(es\)"),
        ([], [], r"0 class\(es\)"),
        ([], ["a", "b"], "no images"),
        (SUPPORT, ["a", "b"], "5 images and 2 labels"),
        (SUPPORT, [[1], [2], [1], [2], [1]], "not hashable"),
    ],
)
def test_labels_that_do_not_fit_are_refused(images, labels, said):
    with pytest.raises(DataError, match=said):
        classifier().fit(images, labels)


def test_what_was_learned_survives_a_refused_fit(fitted):
    before = fitted.predict_proba(QUERIES)
    with pytest.raises(DataError):
        fitted.fit(SUPPORT, ["a"] * 5)
    np.testing.assert_array_equal(fitted.predict_proba(QUERIES), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"statistics": "mean"}, "statistics is 'mean'; choose one of batch, running, support"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"inner_steps": 2.5}, r"inner_steps is 2\.5"),
        ({"polarity": "white"}, "polarity is 'white'; choose one of auto"),
        ({"reject_below": 1.5}, r"reject_below is 1\.5"),
        ({"reject_below": "0.5"}, "reject_below is '0.5'"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        classifier(**settings).fit(SUPPORT, LABELS)
    with pytest.raises(ConfigError, match=said):
        FewShotClassifier.from_pretrained("glyphs", **settings)


def test_only_writing_has_a_polarity():
    with pytest.raises(ConfigError, match="no model of writing"):
        classifier(small_model(colour_config(), channels=3), polarity="auto").fit(SUPPORT, LABELS)


def test_a_model_with_a_learned_loss_says_what_it_cannot_do():
    images = drawings(8)
    inductive = FewShotClassifier(small_model(small_config("metal_inductive")))
    with pytest.raises(
        ModelError, match=r"4 classes, .*metal_inductive.* has learned of 3 outputs"
    ):
        inductive.fit(images, [0, 1, 2, 3, 0, 1, 2, 3])
    transductive = FewShotClassifier(small_model(small_config("metal")))
    with pytest.raises(ModelError, match=r"reads the unlabelled queries .* --mode=evaluate"):
        transductive.fit(images, [0, 1, 0, 1, 0, 1, 0, 1])
    assert "at most 3 classes" in model_card(inductive.model)
    assert "the classifier above refuses it" in model_card(transductive.model)
