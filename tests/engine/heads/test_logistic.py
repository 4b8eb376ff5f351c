"""Logistic heads against scikit-learn's own pipeline, and what is said when they do not converge."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads import logistic
from tle.heads.params import Params


def _fit(task, **settings):
    return logistic.fit(task, Params("logistic", settings))


def _pipeline(c, tol=1e-6):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=tol, max_iter=5000))


@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_equals_the_scikit_learn_pipeline(make_task, digits, c):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND[:400], y_N[:400]), C=c)
    want = _pipeline(c).fit(x_ND[:400].astype(np.float64), y_N[:400])
    scores = fitted.model.scores(x_ND[400:])
    np.testing.assert_allclose(scores, want.predict_proba(x_ND[400:]), atol=2e-5)
    np.testing.assert_array_equal(scores.argmax(axis=1), want.predict(x_ND[400:]))


def test_two_classes_equal_the_binary_problem_of_scikit_learn(make_task, blobs):
    x_ND, y_N = blobs(200, 8, 2, spread=2.0)
    fitted = _fit(make_task(x_ND, y_N), C=0.1)
    want = _pipeline(0.1).fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want, atol=1e-5)


def test_the_optimum_is_reached_not_only_approached(make_task, digits):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND[:400], y_N[:400]), C=1.0)
    exact = _pipeline(1.0, tol=1e-10).fit(x_ND[:400].astype(np.float64), y_N[:400]).predict_proba(x_ND[400:])
    loose = _pipeline(1.0, tol=1e-4).fit(x_ND[:400].astype(np.float64), y_N[:400]).predict_proba(x_ND[400:])
    ours = np.abs(fitted.model.scores(x_ND[400:]) - exact).max()
    assert ours < 0.005
    assert ours < np.abs(loose - exact).max() / 10  # what scikit-learn's default tolerance gives
    assert fitted.chosen["converged"]
    assert fitted.chosen["gradient"] < 2e-6


def test_more_features_than_samples(make_task, blobs):
    x_ND, y_N = blobs(30, 200, 3, spread=3.0)
    fitted = _fit(make_task(x_ND, y_N), C=0.01)
    want = _pipeline(0.01).fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want, atol=1e-5)


def test_c_is_chosen_on_val_and_the_refit_keeps_the_strength_per_sample(make_task, blobs):
    x_ND, y_N = blobs(200, 10, 4, spread=2.0)
    fitted = _fit(make_task(x_ND, y_N, n_val=50), C=[1e-4, 1e-2, 1.0])
    by_hand = {}
    for c in (1e-4, 1e-2, 1.0):
        pipe = _pipeline(c).fit(x_ND[:150].astype(np.float64), y_N[:150])
        by_hand[c] = (pipe.score(x_ND[150:], y_N[150:]), -_nll(pipe.predict_proba(x_ND[150:]), y_N[150:]))
    best = max(by_hand, key=by_hand.get)
    assert fitted.chosen["C"] == best
    assert fitted.chosen["C_refit"] == pytest.approx(best * 150 / 200)
    for trial in fitted.trials:
        assert trial["accuracy"] == pytest.approx(by_hand[trial["C"]][0])
        assert trial["nll"] == pytest.approx(-by_hand[trial["C"]][1], abs=1e-4)
        assert trial["converged"]
    want = _pipeline(best * 0.75).fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want, atol=1e-5)


def _nll(p, y):
    return -np.log(p[np.arange(len(y)), y]).mean()


def test_equal_accuracy_is_decided_by_the_likelihood(make_task, blobs):
    x_ND, y_N = blobs(120, 4, 2, spread=0.05)  # every C is right everywhere
    fitted = _fit(make_task(x_ND, y_N, n_val=30), C=[1e-3, 1.0, 0.1])
    assert {trial["accuracy"] for trial in fitted.trials} == {1.0}
    assert fitted.chosen["C"] == min(fitted.trials, key=lambda trial: trial["nll"])["C"] == 1.0
    assert fitted.notes == ("the best C, 1, is the largest that was tried: a wider range of C may do better",)


def test_what_does_not_converge_is_said_for_the_sweep_and_for_the_result(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND[:200], y_N[:200], n_val=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn's warning must not escape either
        fitted = _fit(task, C=[0.01, 10.0], max_iter=3)
    assert fitted.chosen["converged"] is False
    assert [trial["converged"] for trial in fitted.trials] == [False, False]
    notes = " | ".join(fitted.notes)
    assert "did not converge at C = 0.01, 10 while choosing C (max_iter 3)" in notes
    assert "the final fit stopped after 3 iterations without converging (gradient" in notes


def test_constant_features_get_no_weight(make_task, digits):
    x_ND, y_N = digits
    constant = x_ND[:300].std(axis=0) == 0
    assert constant.any()
    fitted = _fit(make_task(x_ND[:300], y_N[:300]), C=0.1)
    assert np.abs(fitted.model.weight_KD[:, constant]).max() == 0.0


def test_a_class_missing_from_train_keeps_its_place(make_task, blobs):
    x_ND, y_N = blobs(90, 6, 3)
    fitted = _fit(make_task(x_ND, np.where(y_N == 2, 4, y_N), n_classes=6), C=0.1)
    scores = fitted.model.scores(x_ND)
    assert scores.shape == (90, 6)
    assert scores[:, [2, 3, 5]].max() < 1e-12
    want = _pipeline(0.1).fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND)
    np.testing.assert_allclose(scores[:, [0, 1, 4]], want, atol=1e-5)


def test_multilabel_is_one_binary_problem_a_label(make_task, blobs):
    x_ND, y_N = blobs(150, 8, 3, spread=2.0)
    labels_NC = np.stack([y_N == 0, y_N >= 1, np.zeros(150), np.ones(150)], axis=1).astype(np.uint8)
    fitted = _fit(make_task(x_ND, labels_NC, target=Target.MULTILABEL), C=0.1)
    scores = fitted.model.scores(x_ND)
    for label in (0, 1):
        want = _pipeline(0.1).fit(x_ND.astype(np.float64), labels_NC[:, label]).predict_proba(x_ND)[:, 1]
        np.testing.assert_allclose(scores[:, label], want, atol=1e-5)
    np.testing.assert_allclose(scores[:, 2], 0.5 / 151, rtol=1e-5)
    np.testing.assert_allclose(scores[:, 3], 150.5 / 151, rtol=1e-5)
    assert "2 labels are the same in every picture of the fit and get one probability: class 2, class 3" in fitted.notes


def test_multilabel_chooses_one_c_by_average_precision(make_task, blobs):
    x_ND, y_N = blobs(160, 8, 4, spread=2.0)
    fitted = _fit(make_task(x_ND, np.eye(4, dtype=np.uint8)[y_N], n_val=60, target=Target.MULTILABEL), C=[1e-4, 0.1])
    assert fitted.chosen["C"] == max(fitted.trials, key=lambda trial: trial["mAP"])["C"]


def test_without_val_one_c_is_needed(make_task, blobs):
    task = make_task(*blobs(30, 4, 2))
    assert _fit(task).chosen["C"] == logistic.DEFAULT_C
    assert _fit(task, C=3).chosen["C"] == 3.0
    with pytest.raises(HeadError, match="2 values of C were given and no validation pictures to choose by"):
        _fit(task, C=[1, 3])


def test_settings_out_of_range(make_task, blobs):
    with pytest.raises(UsageError, match="tol of head logistic takes a number above 0, got 0"):
        _fit(make_task(*blobs(30, 4, 2)), tol=0)
