"""Nearest class means against scikit-learn's NearestCentroid and the long way."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from tle.enums import Target
from tle.errors import UsageError
from tle.heads import prototype
from tle.heads.affine import Affine
from tle.heads.knn import Knn
from tle.heads.params import Params
from tle.heads.prototype import Prototypes


def _refit(task, **params):
    params = Params("prototype", params)
    return prototype.refit(task, params, task.both, prototype.default_settings(params), (), len(task.both))


def test_euclidean_equals_nearest_centroid_and_is_a_layer(make_task, digits):
    x_ND, y_N = digits
    model = _refit(make_task(x_ND[:400], y_N[:400]), metric="euclidean").model
    assert isinstance(model, Affine)
    varies = x_ND[:400].std(axis=0) > 0  # scikit-learn warns of the others, which add to no distance
    scaler = StandardScaler().fit(x_ND[:400, varies].astype(np.float64))
    want = NearestCentroid().fit(scaler.transform(x_ND[:400, varies].astype(np.float64)), y_N[:400])
    fresh = scaler.transform(x_ND[400:, varies].astype(np.float64))
    np.testing.assert_array_equal(model.scores(x_ND[400:]).argmax(axis=1), want.predict(fresh))


def test_cosine_is_the_softmax_of_the_similarities_and_can_be_stored(make_task, digits):
    x_ND, y_N = digits
    fitted = _refit(make_task(x_ND[:400], y_N[:400]))
    unit = x_ND / np.linalg.norm(x_ND.astype(np.float64), axis=1, keepdims=True)
    means = np.stack([unit[:400][y_N[:400] == label].mean(axis=0) for label in range(10)])
    logits = unit[400:] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T / fitted.details["temperature"]
    want = np.exp(logits - logits.max(axis=1, keepdims=True))
    want /= want.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.model.scores(x_ND[400:]), want, atol=1e-4)
    again = Knn.load(fitted.model.record(), fitted.model.tensors(), target=Target.CLASS, outputs=10, dim=64)
    np.testing.assert_array_equal(again.scores(x_ND[400:]), fitted.model.scores(x_ND[400:]))


@pytest.mark.parametrize("metric", prototype.METRICS)
def test_left_out_logits_are_those_of_means_without_the_sample(make_task, blobs, metric):
    x_ND, y_N = blobs(25, 4, 3, spread=2.0)
    y_N[0], y_N[1:] = 2, np.where(y_N[1:] == 2, 0, y_N[1:])  # sample 0 is alone in its class
    task = make_task(x_ND, y_N)
    whole = Prototypes(task, task.train, metric)
    found = whole.logits(x_ND, y_N)
    assert found[0, 2] == -np.inf
    for left in range(1, 25):
        rest = np.arange(25) != left
        if metric == "cosine":
            z_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
        else:
            z_ND = StandardScaler().fit_transform(x_ND.astype(np.float64))
        for label in range(3):
            mean = z_ND[rest & (y_N == label)].mean(axis=0)
            cosine, distance = z_ND[left] @ mean / np.linalg.norm(mean), np.linalg.norm(z_ND[left] - mean)
            want = cosine if metric == "cosine" else -0.5 * distance**2
            assert found[left, label] == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("metric", prototype.METRICS)
def test_the_temperature_is_honest_with_and_without_val(make_task, digits, metric):
    x_ND, y_N = digits
    task = make_task(x_ND[:500], y_N[:500], n_val=200)
    (attempt,) = prototype.attempts(task, Params("prototype", {"metric": metric}), task.train, task.val)
    alone = prototype.refit(task, Params("prototype", {}), task.train, {"metric": metric}, (), 300)
    assert any("its class without it" in note for note in alone.notes)
    for model in (attempt.model, alone.model):
        fresh = model.scores(x_ND[500:])
        assert fresh.max(axis=1).mean() == pytest.approx((fresh.argmax(axis=1) == y_N[500:]).mean(), abs=0.1)
    carried = prototype.refit(task, Params("prototype", {}), task.both, attempt.settings, [attempt.carry], 300)
    assert carried.details["temperature"] == pytest.approx(attempt.carry["temperature"])


def test_both_metrics_are_tried_and_absent_classes_stay_absent(make_task, blobs):
    x_ND, y_N = blobs(120, 6, 3, spread=0.5)
    labels = np.where(y_N == 2, 4, y_N)
    task = make_task(x_ND, labels, n_val=30, n_classes=6)
    tried = list(prototype.attempts(task, Params("prototype", {}), task.train, task.val))
    assert [attempt.settings for attempt in tried] == [{"metric": "cosine"}, {"metric": "euclidean"}]
    for attempt in tried:
        assert attempt.scores[:, [2, 3, 5]].max() < 1e-12
        assert (attempt.scores.argmax(axis=1) == labels[90:]).mean() > 0.8


def test_an_unknown_metric_is_refused(make_task, blobs):
    with pytest.raises(UsageError, match="metric of head prototype is cosine or euclidean, got 'manhattan'"):
        _refit(make_task(*blobs(20, 3, 2)), metric="manhattan")
