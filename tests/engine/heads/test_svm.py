"""Support vector machines by name."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads import svm
from tle.heads.estimator import Estimator
from tle.heads.params import Params


def _refit(task, **params):
    params = Params("svm", params)
    return svm.refit(task, params, task.both, svm.default_settings(params), (), len(task.both))


def test_attempts_are_linear_svcs_the_smallest_c_first(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND, y_N, n_val=200)
    tried = list(svm.attempts(task, Params("svm", {"C": [0.1, 0.001], "scaler": "none"}), task.train, task.val))
    assert [attempt.settings for attempt in tried] == [{"C": 0.001}, {"C": 0.1}]
    for attempt in tried:
        want = LinearSVC(C=attempt.settings["C"], random_state=0).fit(x_ND[:400].astype(np.float64), y_N[:400])
        np.testing.assert_array_equal(attempt.scores.argmax(axis=1), want.predict(x_ND[400:]))
        assert attempt.carry["temperature"] > 0
    last = svm.refit(task, Params("svm", {}), task.both, {"C": 0.1}, [tried[1].carry], 400)
    assert last.details["C_refit"] == pytest.approx(0.1 * 400 / 600)
    assert last.details["temperature"] == pytest.approx(tried[1].carry["temperature"])


def test_regression_does_not_depend_on_the_unit_of_the_values(make_task):
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(200, 5)).astype(np.float32)
    y_N = (x_ND @ rng.normal(size=5)).astype(np.float32)
    scores = []
    for unit in (1.0, 1000.0):
        values = (unit * (y_N + 50)).astype(np.float32)
        model = _refit(make_task(x_ND, values, target=Target.REGRESSION), C=1.0).model
        scores.append(model.scores(x_ND)[:, 0] / unit)
        record, tensors, files = model.record(), model.tensors(), model.files()
        again = Estimator.load(record, tensors, *files.values(), target=Target.REGRESSION, outputs=1, dim=5)
        np.testing.assert_array_equal(again.scores(x_ND), model.scores(x_ND))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3)
    assert np.corrcoef(scores[0], y_N)[0, 1] > 0.99


def test_multilabel(make_task, blobs):
    x_ND, y_N = blobs(200, 6, 3, spread=0.5)
    labels = np.stack([y_N == 0, y_N == 1], axis=1).astype(np.uint8)
    task = make_task(x_ND, labels, n_val=60, target=Target.MULTILABEL)
    attempt = next(iter(svm.attempts(task, Params("svm", {"C": 1.0}), task.train, task.val)))
    assert ((attempt.scores > 0.5) == labels[140:]).mean() > 0.9


def test_settings_are_checked(make_task, blobs):
    task = make_task(*blobs(40, 4, 2))
    with pytest.raises(UsageError, match="class_weight of head svm is none or balanced"):
        _refit(task, class_weight="heavy")
    with pytest.raises(HeadError, match="2 values of C"):
        _refit(task, C=[1.0, 2.0])
