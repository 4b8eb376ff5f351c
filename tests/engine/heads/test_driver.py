"""The way from samples to a head, with kinds of heads whose attempts are known."""

import numpy as np
import pytest

from tle.enums import Target
from tle.errors import HeadError, ShapeError
from tle.heads import logistic
from tle.heads.choice import TURNED_AFTER, Rule
from tle.heads.driver import KINDS, check_kind, fit_task, load_kind
from tle.heads.exploration import explore, is_adaptive, open_store
from tle.heads.folds import deal_folds, split_folds
from tle.heads.params import Params
from tle.heads.sweep import Attempt


class Known:
    """A kind of head that is right on a given part of the pictures at each setting."""

    PARAMS = ("s",)
    TARGETS = (Target.CLASS,)
    ADAPTIVE = True

    def __init__(self, shares):
        self.shares = shares
        self.tried = []

    def attempts(self, task, params, train, val):
        for setting, share in enumerate(self.shares):
            self.tried.append(setting)
            if share is None:
                yield Attempt(settings={"s": setting}, scores=None)
                continue
            right = np.arange(len(val)) < share * len(val)
            named = np.where(right, val.labels, 1 - val.labels)
            yield Attempt(settings={"s": setting}, scores=np.where(np.eye(2)[named] > 0, 0.8, 0.2).astype(np.float32))


@pytest.fixture
def task(make_task):
    labels = np.arange(400) % 2
    return make_task(np.zeros((400, 3), np.float32), labels, n_val=200)


def _explore(kind, task, parts=None, params=None):
    with open_store() as store:
        found = explore(task, kind, Params("known", params or {}), parts or [(task.train, task.val)], RULE, store)
        scores = [[store.get(place) for place in places] for places in found.places]
    return found, scores


RULE = Rule("accuracy", "nll")


def test_an_adaptive_sweep_stops_where_validation_has_turned_and_says_so(task):
    kind = Known([0.7, 0.9, *[0.5] * 20])
    found, _ = _explore(kind, task)
    assert len(found.trials) == len(kind.tried) == 2 + TURNED_AFTER
    assert found.stopped["tried"] == 6
    assert found.stopped["after"] == {"s": 5}
    assert "worse than the best by more than 2 standard errors in accuracy and nll" in found.stopped["reason"]


def test_a_list_and_a_kind_that_is_not_adaptive_are_tried_fully(task):
    shares = [0.7, 0.9, *[0.5] * 20]
    assert len(_explore(Known(shares), task, params={"s": [1, 2]})[0].trials) == 22
    stubborn = Known(shares)
    stubborn.ADAPTIVE = False
    assert _explore(stubborn, task)[0].stopped is None
    asked = Known(shares)
    asked.ADAPTIVE = lambda params: params.values.get("grid") == "adaptive"
    assert not is_adaptive(asked, Params("known", {}))
    assert is_adaptive(asked, Params("known", {"grid": "adaptive"}))


def test_the_other_folds_try_as_many_settings_as_the_first(task):
    kind = Known([0.7, 0.9, *[0.5] * 20])
    parts = split_folds(task.both, deal_folds(task.both.labels, 2, 0))
    found, _ = _explore(kind, task, parts)
    assert [len(trial.figures) for trial in found.trials] == [2] * 6
    assert kind.tried == [*range(6), *range(6)]
    assert found.stopped["reason"].endswith("in the first fold")


def test_scores_come_back_as_they_were_and_what_diverged_has_none(task):
    kind = Known([0.7, None, 0.9])
    found, scores = _explore(kind, task)
    assert [trial.diverged for trial in found.trials] == [False, True, False]
    assert scores[1] == []
    assert [(s[0].argmax(axis=1) == task.val.labels).mean() for s in (scores[0], scores[2])] == [0.7, 0.9]


def test_scores_of_another_shape_are_an_error_of_the_kind(task):
    class Wrong(Known):
        def attempts(self, task, params, train, val):
            yield Attempt(settings={}, scores=np.zeros((3, 2), np.float32))

    with pytest.raises(ShapeError, match=r"expected validation scores \(200, 2\), got \(3, 2\)"):
        _explore(Wrong([]), task)


def test_out_of_fold_scores_are_those_of_fits_without_these_pictures(make_task, blobs):
    x_ND, y_N = blobs(150, 5, 3, spread=2.0)
    task = make_task(x_ND, y_N)
    fold_N = deal_folds(y_N, 3, 0)
    fitted = fit_task(task, "logistic", {"C": 0.1}, fold_N=fold_N)
    parts = split_folds(task.train, fold_N)
    want = [next(iter(logistic.attempts(task, Params("logistic", {"C": 0.1}), *part))).scores for part in parts]
    np.testing.assert_array_equal(fitted.val_scores, np.concatenate(want))
    np.testing.assert_array_equal(fitted.val_labels, np.concatenate([val.labels for _, val in parts]))
    accuracies = [(s.argmax(axis=1) == val.labels).mean() for s, (_, val) in zip(want, parts, strict=True)]
    assert fitted.trials[0]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert fitted.trials[0]["accuracy_se"] == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(3))


def test_nothing_to_choose_by(make_task, blobs):
    task = make_task(*blobs(40, 4, 2))
    fitted = fit_task(task, "logistic", {})
    assert (fitted.trials, fitted.val_scores, fitted.choice, fitted.calibration) == ([], None, {}, None)
    with pytest.raises(HeadError, match="2 values of C were given"):
        fit_task(task, "logistic", {"C": [1, 2]})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_follows_the_protocol(make_task, blobs, kind):
    module = load_kind(kind)
    target = next(iter(module.TARGETS))
    task = make_task(*blobs(90, 4, 3, spread=0.3), n_val=30)
    check_kind(kind, {}, target, 0)
    fitted = fit_task(task, kind, {})
    assert sum(bool(row.get("chosen")) for row in fitted.trials) == 1
    assert (fitted.model.scores(task.val.gather()).argmax(axis=1) == task.val.labels).mean() > 0.9
    assert fit_task(make_task(*blobs(90, 4, 3, spread=0.3)), kind, {}).val_scores is None
