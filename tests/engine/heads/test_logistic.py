"""Logistic heads against scikit-learn's own pipeline, and what is said when they are not certified."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads import logistic
from tle.heads.driver import fit_task


def _fit(task, **settings):
    return fit_task(task, "logistic", settings)


def _pipeline(c, tol=1e-6):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=tol, max_iter=5000))


@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_equals_the_scikit_learn_pipeline(make_task, digits, c):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND[:400], y_N[:400]), C=c)
    want = _pipeline(c, tol=1e-10).fit(x_ND[:400].astype(np.float64), y_N[:400])
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
    assert fitted.chosen["gap"] < 1e-9


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
    assert "did not converge at C = 0.01, 10 while settings were chosen" in notes
    gap = fitted.chosen["gap"]
    assert f"the final fit is certified to {gap:.1e} of its objective, wanted 1.0e-05, after 3 passes: raise" in notes
    assert gap > 1e-5


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
    with pytest.raises(UsageError, match="parameter scale of head logistic is standard or l2 or none, got 'l1'"):
        _fit(make_task(*blobs(30, 4, 2)), scale="l1")
    with pytest.raises(UsageError, match="parameter device of head logistic is cpu or cuda, got 'tpu'"):
        _fit(make_task(*blobs(30, 4, 2)), device="tpu")
    with pytest.raises(UsageError, match="parameter path of head logistic is adaptive or dinov2, got 'all'"):
        _fit(make_task(*blobs(30, 4, 2)), path="all")
    with pytest.raises(UsageError, match="takes C or path, not both: path=dinov2 has values of its own"):
        _fit(make_task(*blobs(30, 4, 2)), path="dinov2", C=1)


def test_the_path_is_tried_from_strong_to_weak_and_ends_once_validation_has_turned(make_task, blobs):
    x_ND, y_N = blobs(1600, 80, 2, spread=3.0)
    noise = np.random.default_rng(1).random(1600) < 0.3  # labels that only weak penalties learn, by heart
    task = make_task(x_ND, np.where(noise, 1 - y_N, y_N), n_val=1400)
    short, full = _fit(task), _fit(task, path="dinov2")
    tried = [trial["C"] for trial in full.trials]
    np.testing.assert_allclose(tried, 10 ** np.linspace(-6, 5, 45))
    assert short.choice["stopped"] is not None
    assert full.choice["stopped"] is None
    assert len(short.trials) < 45
    assert [trial["C"] for trial in short.trials] == tried[: len(short.trials)]
    assert short.chosen["C"] == full.chosen["C"]
    for trial in full.trials:
        assert trial["gap"] < 1e-6
        assert trial["passes"] >= 1
        assert trial["converged"]


def test_every_trial_is_the_optimum_at_its_c(make_task, blobs):
    x_ND, y_N = blobs(260, 8, 3, spread=3.0)
    fitted = _fit(make_task(x_ND, y_N, n_val=60), path="dinov2")
    for trial in fitted.trials[::6]:
        pipe = _pipeline(trial["C"], tol=1e-10).fit(x_ND[:200].astype(np.float64), y_N[:200])
        assert trial["nll"] == pytest.approx(_nll(pipe.predict_proba(x_ND[200:]), y_N[200:]), rel=1e-4)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_features_that_are_streamed_give_what_features_in_memory_give(make_task, digits, monkeypatch, tmp_path, stored):
    x_ND, y_N = digits
    np.save(tmp_path / "f.npy", x_ND.astype(stored))
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    settings = {"C": [1e-3, 0.1], "tol": 1e-6}
    in_memory = _fit(make_task(x_ND, y_N, n_val=100), **settings)
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    monkeypatch.setattr("tle.heads.exact.problem.RESIDENT_BYTES", 0)
    monkeypatch.setattr("tle.heads.logistic._VAL_IN_MEMORY", 0)
    streamed = _fit(make_task(mapped, y_N, n_val=100), **settings)
    assert streamed.chosen["C"] == in_memory.chosen["C"]
    np.testing.assert_allclose(streamed.val_scores, in_memory.val_scores, atol=2e-3)
    assert all(trial["gap"] <= 1e-6 for trial in streamed.trials)


def test_unscaled_features(make_task, blobs):
    x_ND, y_N = blobs(120, 5, 3, spread=2.0)
    fitted = _fit(make_task(x_ND, y_N), C=0.05, scale="none")
    want = LogisticRegression(C=0.05, tol=1e-10, max_iter=5000).fit(x_ND.astype(np.float64), y_N)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want.predict_proba(x_ND), atol=1e-5)
    assert fitted.chosen["scale"] == "none"


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_rows_of_length_one(make_task, blobs, stored):
    x_ND, y_N = blobs(120, 5, 3, spread=0.5)
    x_ND = (x_ND * np.random.default_rng(0).uniform(0.1, 10, (120, 1))).astype(stored)
    fitted = _fit(make_task(x_ND, y_N, n_val=30), C=[1.0, 10.0], scale="l2")
    pipe = make_pipeline(Normalizer(), LogisticRegression(C=fitted.chosen["C_refit"], tol=1e-10, max_iter=5000))
    want = pipe.fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND.astype(np.float64))
    np.testing.assert_allclose(fitted.model.scores(x_ND.astype(np.float32)), want, atol=1e-5)
    np.testing.assert_allclose(fitted.model.scores(3 * x_ND.astype(np.float32)), want, atol=1e-5)
    assert fitted.model.unit_rows


@pytest.mark.parametrize("weights", ["balanced", {"class 1": 5.0, "class 2": 0.5}])
def test_class_weights_are_those_of_scikit_learn(make_task, blobs, weights):
    x_ND, y_N = blobs(150, 6, 3, spread=3.0)
    y_N = np.where(np.arange(150) % 2 == 0, 0, y_N)
    fitted = _fit(make_task(x_ND, y_N), C=0.1, class_weight=weights)
    given = weights if weights == "balanced" else {0: 1.0, 1: 5.0, 2: 0.5}
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10, max_iter=5000, class_weight=given))
    want = pipe.fit(x_ND.astype(np.float64), y_N).predict_proba(x_ND)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want, atol=1e-5)


def test_a_class_of_weight_zero_is_as_good_as_absent(make_task, blobs):
    x_ND, y_N = blobs(90, 4, 3)
    fitted = _fit(make_task(x_ND, y_N), C=0.1, class_weight={"class 1": 0})
    assert fitted.model.scores(x_ND)[:, 1].max() < 1e-12


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ("even", "class_weight of head logistic is balanced or weights by class such as {'class 0': 2}, got 'even'"),
        ({"clas 1": 2}, r"unknown class 'clas 1'; did you mean class"),
        ({"class 1": -1}, "takes a number of at least 0, got -1"),
        ({"class 0": 0, "class 1": 0, "class 2": 0}, "class_weight is 0 for every class that has a picture"),
    ],
)
def test_class_weights_that_make_no_sense(make_task, blobs, weights, match):
    with pytest.raises(UsageError, match=match):
        _fit(make_task(*blobs(30, 4, 3)), class_weight=weights)


def test_class_weights_are_not_for_multilabel(make_task, blobs):
    x_ND, y_N = blobs(60, 4, 3)
    task = make_task(x_ND, np.eye(3, dtype=np.uint8)[y_N], target=Target.MULTILABEL)
    with pytest.raises(UsageError, match="class_weight is for target class, got target multilabel"):
        _fit(task, class_weight="balanced")


def test_validation_may_take_all_pictures_but_those_of_one_class(make_task, blobs):
    x_ND, y_N = blobs(60, 4, 2)
    order = np.argsort(y_N, kind="stable")
    fitted = _fit(make_task(x_ND[order], y_N[order], n_val=30), C=[0.1, 1.0])
    assert [trial["gap"] for trial in fitted.trials] == [0.0, 0.0]
    assert fitted.chosen["converged"]


def test_labels_that_never_vary_need_no_fit(make_task, blobs):
    x_ND, _ = blobs(40, 4, 2)
    fitted = _fit(make_task(x_ND, np.zeros((40, 2), np.uint8), n_val=10, target=Target.MULTILABEL), C=1)
    np.testing.assert_allclose(fitted.model.scores(x_ND), 0.5 / 41, rtol=1e-5)


def test_separable_classes_that_cannot_be_certified_are_called_so(make_task, blobs, monkeypatch):
    """In float32, as large caches are, and without the last steps of small problems."""
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    x_ND, y_N = blobs(500, 40, 5, spread=0.4)
    fitted = _fit(make_task(x_ND, y_N), C=1e7, tol=1e-14)
    assert not fitted.chosen["converged"]
    assert (fitted.model.scores(x_ND).argmax(axis=1) == y_N).all()
    (note,) = [note for note in fitted.notes if note.startswith("the final fit is certified to")]
    assert "since its classes are separable, and at C = 1e+07 the objective is next to 0" in note


def test_the_same_seed_gives_the_same_head(make_task, digits):
    x_ND, y_N = digits
    one, again = (_fit(make_task(x_ND, y_N, n_val=100), C=[1e-3, 1e-2]) for _ in range(2))
    np.testing.assert_array_equal(one.model.weight_KD, again.model.weight_KD)


@pytest.mark.parametrize("kind", ["classes", "two classes", "l2", "weighted", "labels"])
def test_cuda_gives_what_the_cpu_gives(make_task, blobs, cuda, kind):
    x_ND, y_N = blobs(300, 8, 2 if kind == "two classes" else 4, spread=2.0)
    settings = {"l2": {"scale": "l2"}, "weighted": {"class_weight": "balanced"}}.get(kind, {})
    target = {"labels": Target.MULTILABEL}.get(kind, Target.CLASS)
    labels = np.eye(4, dtype=np.uint8)[y_N] if kind == "labels" else y_N
    task = make_task(x_ND, labels, n_val=60, target=target)
    ours, theirs = (_fit(task, C=[0.01, 0.1], device=device, **settings) for device in ("cuda", "cpu"))
    assert cuda == [ours.chosen["device"]] * 2  # the sweep and the refit
    assert theirs.chosen["device"] == "cpu"
    assert ours.chosen["C"] == theirs.chosen["C"]
    assert ours.chosen["converged"]
    np.testing.assert_allclose(ours.model.scores(x_ND), theirs.model.scores(x_ND), atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(make_task, blobs):
    with pytest.raises(
        UsageError, match="device of head logistic is cuda, but torch finds no CUDA device: take device=cpu"
    ):
        _fit(make_task(*blobs(30, 4, 2)), device="cuda")
