"""kNN heads against a plain computation."""

import numpy as np
import pytest

from tle.enums import Target
from tle.errors import HeadError
from tle.heads import knn
from tle.heads.knn import Knn, normalise
from tle.heads.params import Params


def _fit(task, **params):
    params = Params("knn", params)
    return knn.refit(task, params, task.both, knn.default_settings(params), (), len(task.both))


def _votes(bank, labels, query, k, t):
    """Weights of the k nearest for one query, the long way."""
    cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
    nearest = np.argsort(-cosine, kind="stable")[:k]
    weight = np.exp(cosine[nearest] / t)
    return labels[nearest], weight / weight.sum()


def test_class_votes(make_task, blobs):
    x_ND, y_N = blobs(80, 6, 3, spread=2.0)
    fitted = _fit(make_task(x_ND, y_N), k=7, temperature=0.1)
    queries = blobs(20, 6, 3, seed=5)[0]
    scores = fitted.model.scores(queries)
    for query, row in zip(queries, scores, strict=True):
        labels, weight = _votes(x_ND.astype(np.float64), y_N, query.astype(np.float64), 7, 0.1)
        np.testing.assert_allclose(row, np.bincount(labels, weight, minlength=3), atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-6)


def test_multilabel_and_regression_votes(make_task, blobs):
    x_ND, y_N = blobs(60, 5, 3, spread=2.0)
    query = blobs(4, 5, 2, seed=5)[0]
    indicators = np.stack([y_N == 0, y_N >= 1], axis=1).astype(np.uint8)
    values = (y_N * 10).astype(np.float32)
    multi = _fit(make_task(x_ND, indicators, target=Target.MULTILABEL), k=9).model.scores(query)
    single = _fit(make_task(x_ND, values, target=Target.REGRESSION), k=9).model.scores(query)
    for row in range(4):
        labels, weight = _votes(x_ND.astype(np.float64), indicators, query[row].astype(np.float64), 9, 0.07)
        np.testing.assert_allclose(multi[row], weight @ labels, atol=1e-5)
        labels, weight = _votes(x_ND.astype(np.float64), values, query[row].astype(np.float64), 9, 0.07)
        np.testing.assert_allclose(single[row, 0], weight @ labels, rtol=1e-5)


def test_attempts_share_one_search_the_most_neighbours_first(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND[:300], y_N[:300], n_val=150)
    tried = list(knn.attempts(task, Params("knn", {}), task.train, task.val))
    assert [attempt.settings["k"] for attempt in tried] == [200, 100, 20, 10]
    assert [attempt.carry["k"] for attempt in tried] == [150, 100, 20, 10]  # there are no more to ask
    for attempt in tried:
        alone = knn.refit(task, Params("knn", {}), task.train, attempt.settings, (), 150).model
        np.testing.assert_allclose(attempt.scores, alone.scores(x_ND[150:300]), atol=1e-5)
    assert (tried[-1].scores.argmax(axis=1) == y_N[150:300]).mean() > 0.9


def test_the_refit_asks_no_more_neighbours_than_voted_before(make_task, digits):
    task = make_task(digits[0][:300], digits[1][:300], n_val=150)
    carried = [{"k": 149}, {"k": 150}]
    last = knn.refit(task, Params("knn", {}), task.both, {"k": 200, "temperature": 0.07}, carried, 150)
    assert last.details["k"] == 150
    assert len(last.model.bank_ND) == 300  # the bank of the final head is train and val


def test_temperatures_can_be_swept_too(make_task, digits):
    task = make_task(digits[0][:300], digits[1][:300], n_val=150)
    params = Params("knn", {"k": [5, 10], "temperature": [0.03, 0.2]})
    tried = list(knn.attempts(task, params, task.train, task.val))
    assert [tuple(attempt.settings.values()) for attempt in tried] == [(10, 0.2), (10, 0.03), (5, 0.2), (5, 0.03)]
    assert not np.allclose(tried[0].scores, tried[1].scores)


def test_asking_for_more_neighbours_than_pictures_is_said(make_task, blobs):
    fitted = _fit(make_task(*blobs(12, 4, 2)), k=50)
    assert fitted.details["k"] == 12
    assert fitted.notes == ("k = 50 is more than the 12 train pictures: all of them vote",)


def test_the_bank_keeps_the_type_of_the_cache(make_task, blobs):
    x_ND, y_N = blobs(30, 4, 2)
    assert _fit(make_task(x_ND.astype(np.float16), y_N)).model.bank_ND.dtype == np.float16
    assert _fit(make_task(x_ND, y_N)).model.bank_ND.dtype == np.float32


def test_normalising_neither_divides_by_zero_nor_overflows():
    x_ND = np.array([[0.0, 0.0], [3.0, 4.0], [3e30, 4e30]], np.float32)
    np.testing.assert_allclose(normalise(x_ND), [[0, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


def test_loading_checks_everything():
    model = Knn(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), 2, 0.07, Target.CLASS, 2)
    load = {"target": Target.CLASS, "outputs": 2, "dim": 3}
    np.testing.assert_array_equal(
        Knn.load(model.record(), model.tensors(), **load).scores(np.eye(3, dtype=np.float32)),
        model.scores(np.eye(3, dtype=np.float32)),
    )
    for record, tensors, message in [
        ({**model.record(), "k": 4}, model.tensors(), "k from 1 to 3"),
        ({**model.record(), "temperature": 0}, model.tensors(), "temperature above 0"),
        (model.record(), {**model.tensors(), "labels": np.array([0, 1, 2])}, "labels from 0 to 1"),
        (model.record(), {**model.tensors(), "labels": np.array([0, 1])}, r"'labels' of shape \(3,\)"),
        (model.record(), {"labels": model.labels}, "'bank'"),
    ]:
        with pytest.raises(HeadError, match=message):
            Knn.load(record, tensors, **load)
