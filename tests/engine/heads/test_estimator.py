"""Estimators of scikit-learn as heads: scores, settings, refusals."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads.driver import fit_task
from tle.heads.estimator import Estimator, make_estimator

SVC = "sklearn:sklearn.svm.LinearSVC"


def _again(model, task):
    """The model after a round trip through what is stored."""
    load = {"target": task.target, "outputs": task.outputs, "dim": task.train.dim}
    return Estimator.load(model.record(), model.tensors(), model.files()["estimator.skops"], **load)


def test_probabilities_of_the_estimator_are_taken_as_they_are(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND[:300], y_N[:300], n_val=100, seed=3)
    fitted = fit_task(task, "sklearn:sklearn.ensemble.RandomForestClassifier", {"n_estimators": 20})
    forest = RandomForestClassifier(n_estimators=20, random_state=3)
    want = make_pipeline(StandardScaler(), forest).fit(x_ND[:300].astype(np.float64), y_N[:300])
    np.testing.assert_allclose(
        fitted.model.scores(x_ND[300:]), want.predict_proba(x_ND[300:].astype(np.float64)), atol=1e-6
    )
    np.testing.assert_array_equal(_again(fitted.model, task).scores(x_ND[300:]), fitted.model.scores(x_ND[300:]))
    assert fitted.trials[0]["accuracy"] == (fitted.val_scores.argmax(axis=1) == y_N[200:300]).mean()


def test_a_decision_function_gets_a_temperature_from_val(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND[:400], y_N[:400], n_val=150)
    fitted = fit_task(task, SVC, {"C": 0.01})
    want = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0)).fit(x_ND[:400], y_N[:400])
    scores = fitted.model.scores(x_ND[400:])
    np.testing.assert_array_equal(scores.argmax(axis=1), want.predict(x_ND[400:]))
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)
    assert fitted.chosen == {"C": 0.01, "temperature": fitted.model.temperature}
    accuracy = (fitted.val_scores.argmax(axis=1) == y_N[250:400]).mean()
    assert fitted.val_scores.max(axis=1).mean() == pytest.approx(accuracy, abs=0.06)


def test_two_classes_and_absent_ones(make_task, blobs):
    x_ND, y_N = blobs(120, 4, 2, spread=0.5)
    task = make_task(x_ND, y_N * 3, n_val=40, n_classes=5)
    scores = fit_task(task, SVC, {}).model.scores(x_ND)
    assert scores[:, [1, 2, 4]].max() == 0.0
    assert (scores.argmax(axis=1) == y_N * 3).mean() > 0.8
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)


def test_without_val_uncalibrated_probabilities_are_said(make_task, blobs):
    fitted = fit_task(make_task(*blobs(40, 4, 2)), SVC, {})
    assert fitted.notes == (
        "no temperature could be fitted without validation pictures: probabilities are not calibrated",
    )


@pytest.mark.parametrize("kind", [SVC, "sklearn:sklearn.naive_bayes.GaussianNB"])
@pytest.mark.parametrize("varying", [1, 2])
def test_multilabel_with_constant_labels(make_task, blobs, kind, varying):
    x_ND, y_N = blobs(120, 5, 3, spread=0.5)
    columns = [np.zeros(120), y_N == 0, y_N >= 1][: 1 + varying]
    labels_NC = np.stack([*columns, np.ones(120)], axis=1).astype(np.uint8)
    task = make_task(x_ND, labels_NC, n_val=30, target=Target.MULTILABEL)
    fitted = fit_task(task, kind, {})
    scores = _again(fitted.model, task).scores(x_ND)
    np.testing.assert_allclose(scores[:, 0], 0.5 / 121, rtol=1e-5)
    np.testing.assert_allclose(scores[:, -1], 120.5 / 121, rtol=1e-5)
    assert ((scores > 0.5) == labels_NC).mean() > 0.95
    assert "2 labels are the same in every picture of the fit and get one probability" in fitted.notes


def test_regression(make_task):
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(200, 3)).astype(np.float32)
    task = make_task(x_ND, x_ND[:, 0] ** 2, n_val=50, target=Target.REGRESSION)
    fitted = fit_task(task, "sklearn:sklearn.neighbors.KNeighborsRegressor", {"n_neighbors": 3, "scaler": "none"})
    assert len(fitted.model.pipeline) == 1  # no scaler
    assert fitted.model.scores(x_ND).shape == (200, 1)
    assert np.corrcoef(_again(fitted.model, task).scores(x_ND)[:, 0], x_ND[:, 0] ** 2)[0, 1] > 0.9


def test_warnings_of_the_estimator_become_notes(make_task, digits):
    x_ND, y_N = digits
    fitted = fit_task(
        make_task(x_ND[:100], y_N[:100]), "sklearn:sklearn.linear_model.LogisticRegression", {"max_iter": 2}
    )
    assert len([note for note in fitted.notes if note.startswith("ConvergenceWarning: lbfgs failed to converge")]) == 1


def test_no_pictures_no_scores(make_task, blobs):
    model = fit_task(make_task(*blobs(40, 4, 2)), SVC, {}).model
    assert model.scores(np.empty((0, 4), np.float32)).shape == (0, 2)


@pytest.mark.parametrize(
    ("kind", "settings", "target", "message"),
    [
        (SVC, {"Cc": 1}, Target.CLASS, r"no parameter 'Cc'; did you mean C\? \(it takes C, "),
        ("sklearn:sklearn.svm.LinearSVM", {}, Target.CLASS, r"did you mean .*sklearn\.svm\.LinearSVC or "),
        ("sklearn:sklearn.svms.LinearSVC", {}, Target.CLASS, r"did you mean sklearn\.svm\.LinearSVC"),
        ("sklearn:LinearSVC", {}, Target.CLASS, "import path, such as sklearn:sklearn.svm.LinearSVC"),
        ("sklearn:os.system", {}, Target.CLASS, "only scikit-learn's own estimators"),
        ("sklearn:sklearn.datasets.load_digits", {}, Target.CLASS, "no estimator sklearn.datasets.load_digits"),
        (SVC, {}, Target.REGRESSION, "not a regressor, and the target of this cache is regression"),
        ("sklearn:sklearn.linear_model.Ridge", {}, Target.CLASS, "not a classifier"),
        ("sklearn:sklearn.cluster.KMeans", {}, Target.CLASS, "not a classifier"),
        ("sklearn:sklearn.ensemble.VotingClassifier", {}, Target.CLASS, "cannot be made from name=value"),
        (SVC, {"scaler": "minmax"}, Target.CLASS, "scaler should be standard or none, got 'minmax'"),
        ("sklearn:sklearn.neighbors.RadiusNeighborsClassifier", {}, Target.NONE, None),
    ],
)
def test_refusals(kind, settings, target, message):
    if message is None:
        make_estimator(kind, settings, target, 0)
        return
    with pytest.raises(UsageError, match=message):
        make_estimator(kind, settings, target, 0)


def test_neither_probabilities_nor_decisions(monkeypatch):
    def missing(_):
        raise AttributeError

    monkeypatch.setattr(LinearSVC, "decision_function", property(missing))
    with pytest.raises(UsageError, match="neither predict_proba nor decision_function"):
        make_estimator(SVC, {}, Target.CLASS, 0)


def test_settings_that_scikit_learn_refuses_and_data_that_it_cannot_take(make_task, blobs):
    task = make_task(*blobs(40, 4, 2))
    with pytest.raises(HeadError, match="LinearSVC cannot be fitted on these features: The 'C' parameter"):
        fit_task(task, SVC, {"C": -1})
    with pytest.raises(HeadError, match="MultinomialNB cannot be fitted on these features: Negative values"):
        fit_task(task, "sklearn:sklearn.naive_bayes.MultinomialNB", {})


def test_a_setting_whose_output_has_another_shape(make_task, blobs):
    task = make_task(*blobs(80, 4, 4))
    with pytest.raises(HeadError, match=r"decision_function of SVC gave \(1, 6\), expected \(1, 4\)"):
        fit_task(task, "sklearn:sklearn.svm.SVC", {"decision_function_shape": "ovo"})


@pytest.mark.parametrize("n_val", [0, 10])
def test_an_estimator_that_fits_but_cannot_predict(make_task, blobs, n_val):
    task = make_task(*blobs(40, 4, 2), n_val=n_val)
    with pytest.raises(
        HeadError, match="predict_proba of KNeighborsClassifier fails .*: Expected n_neighbors"
    ) as caught:
        fit_task(task, "sklearn:sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 1000})
    assert "\n" not in str(caught.value)


def test_another_version_of_scikit_learn_is_warned_of(make_task, blobs):
    task = make_task(*blobs(40, 4, 2))
    model = fit_task(task, SVC, {}).model
    load = {"target": task.target, "outputs": 2, "dim": 4}
    with pytest.warns(UserWarning, match=r"stored by scikit-learn 0\.1\.2 and is read by"):
        Estimator.load(
            {**model.record(), "sklearn": "0.1.2"}, model.tensors(), model.files()["estimator.skops"], **load
        )
