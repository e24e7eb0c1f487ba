"""The classifier as an estimator of scikit-learn: its own checks, and the tools that its users combine."""

import pickle
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, confusion_matrix
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.errors import ConfigError
from tests.helpers.refusals import compilations
from tests.helpers.small_models import drawings, small_model, write_class_folders

# One process compiles for all of these tests.
pytestmark = pytest.mark.xdist_group("sklearn")


@pytest.fixture(scope="module")
def model():
    return small_model()


class RowClassifier(FewShotClassifier):
    """Takes rows of numbers, folded to images of 8 x 8, under scikit-learn's names, so that its checks apply."""

    def fit(self, X, y):
        X, y = validate_data(self, X, y)
        return super().fit(_folded(X), y)

    def fit_transform(self, X, y):
        return self.fit(X, y).transform(X)

    def score(self, X, y):
        return super().score(X, y)

    def _load(self, images, stack):
        if getattr(images, "ndim", 0) != 4:
            images = _folded(validate_data(self, images, reset=False))
        return super()._load(images, stack)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


def _folded(rows):
    squashed = 1 / (1 + np.exp(-np.resize(rows.T, (64, len(rows))).T / 3))
    return np.rint(255 * squashed).astype(np.uint8).reshape(-1, 8, 8, 1)


EXPECTED_TO_FAIL = {
    "check_estimators_unfitted": "the error before fit is mamlpp_jax's; scikit-learn need not be installed",
    "check_classifiers_regression_target": "numbers with fractions are labels like others",
}


def scikit_learns_checks():
    with pytest.warns(UserWarning, match="does not inherit"):
        checks = [check for _, check in estimator_checks_generator(RowClassifier(None))]
    for check in checks:
        name = check.func.__name__
        reason = EXPECTED_TO_FAIL.get(name)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        yield pytest.param(check, id="-".join([name, *check.keywords]), marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", list(scikit_learns_checks()))
def test_scikit_learns_checks(model, check):
    check(RowClassifier(model, inner_steps=20))


def test_its_list_is_whole():
    assert len(list(scikit_learns_checks())) > 50


# ---- its tools ----

SUPPORT, LABELS, QUERIES = drawings(6), np.array([0, 0, 1, 1, 2, 2]), drawings(5, seed=1)


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(float), np.array(list("aabbcc"))])
def test_metrics_and_validation(model, labels):
    clf = FewShotClassifier(model).fit(SUPPORT, labels)
    predicted = clf.predict(SUPPORT)
    assert clf.classes_.dtype == predicted.dtype == labels.dtype
    assert confusion_matrix(labels, predicted).shape == (3, 3)
    assert "precision" in classification_report(labels, predicted, zero_division=0)
    assert np.isfinite(cross_val_score(clf, SUPPORT, labels, cv=2)).all()
    assert is_classifier(clf)


def test_a_clone_shares_the_weights_and_compiles_nothing(model):
    clf = FewShotClassifier(model, inner_steps=2, reject_below=0.1).fit(SUPPORT, LABELS)
    expected = clf.predict_proba(QUERIES)
    before = compilations()
    other = clone(clf)
    assert not hasattr(other, "classes_")
    assert other.get_params() == clf.get_params()
    assert other.model is model
    np.testing.assert_array_equal(other.fit(SUPPORT, LABELS).predict_proba(QUERIES), expected)
    assert compilations() == before
    check_is_fitted(other)


def test_cross_validation_on_paths(model, tmp_path):
    classes = write_class_folders(tmp_path)
    scores = cross_val_score(
        FewShotClassifier(model), [str(path) for path in classes], list(classes.values()), cv=2
    )
    assert np.isfinite(scores).all()


@pytest.mark.slow
def test_grid_search_in_two_processes(model):
    grid = {"inner_steps": [1, 2], "statistics": ["support", "running"]}
    search = GridSearchCV(FewShotClassifier(model), grid, cv=2, n_jobs=2, error_score="raise")
    search.fit(list(SUPPORT), LABELS)
    assert search.best_params_.keys() == grid.keys()
    assert search.best_estimator_.model.meta is not None
    assert search.predict(list(QUERIES)).shape == (5,)


def test_pipelines(model):
    inverted = FunctionTransformer(lambda images: [255 - image for image in images])
    clf = make_pipeline(inverted, FewShotClassifier(model)).fit(list(SUPPORT), LABELS)
    assert clf.predict(list(QUERIES)).shape == (5,)
    clf.set_params(fewshotclassifier__inner_steps=1).fit(list(SUPPORT), LABELS)
    head = make_pipeline(FewShotClassifier(model), StandardScaler(), LogisticRegression())
    assert head.fit(list(SUPPORT), LABELS).score(list(SUPPORT), LABELS) > 0.5


def test_parameters(model):
    clf = FewShotClassifier(model, statistics="nonsense")
    assert clf.get_params()["statistics"] == "nonsense"
    assert clf.set_params(statistics=None, inner_steps=3) is clf
    with pytest.raises(ConfigError, match="steps is no parameter; choose from model, statistics"):
        clf.set_params(steps=3)
    text = repr(clf.fit(SUPPORT, LABELS))
    for part in (
        "maml++, 3-way 1-shot",
        "support statistics",
        "3 inner steps",
        "3 classes learned",
    ):
        assert part in text
    assert "no classes learned" in repr(FewShotClassifier(model))


def test_a_fitted_classifier_is_pickled(model):
    clf = FewShotClassifier(model).fit(SUPPORT, LABELS)
    again = pickle.loads(pickle.dumps(clf))
    for use in ("predict_log_proba", "embed", "familiarity"):
        np.testing.assert_array_equal(getattr(again, use)(QUERIES), getattr(clf, use)(QUERIES))


def test_scikit_learn_is_not_needed(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    clf = FewShotClassifier(model).fit(SUPPORT, LABELS)
    assert clf.set_params(**clf.get_params()).predict(QUERIES).shape == (5,)


def test_embeddings(model):
    clf = FewShotClassifier(small_model(members=2)).fit(SUPPORT, LABELS)
    assert clf.embed(QUERIES).shape[0] == 5
    np.testing.assert_array_equal(clf.transform(QUERIES), clf.embed(QUERIES))
    of_one = FewShotClassifier(model).fit(SUPPORT, LABELS).embed(QUERIES)
    np.testing.assert_allclose(clf.embed(QUERIES)[:, : of_one.shape[1]], of_one, atol=1e-5)
    logs = clf.predict_log_proba(QUERIES)
    np.testing.assert_allclose(jax.nn.softmax(logs), clf.predict_proba(QUERIES), rtol=1e-5)
