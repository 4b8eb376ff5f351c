"""The estimator: scikit-learn's contract, its optimum, and what it says of itself."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneOut, StratifiedKFold
from sklearn.utils.estimator_checks import parametrize_with_checks

import tle
from tle.benchmarks.fuzz_heads import Case, judge, plain_objective
from tle.errors import UsageError
from tle.heads.logistic_path import LogisticPath


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks fit things that deserve a warning
@parametrize_with_checks([LogisticPath()])
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def _reference(x_ND, y_N, c, weight_N=None, **options):
    model = LogisticRegression(C=c, tol=1e-12, max_iter=10_000, **{"solver": "newton-cholesky", **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x_ND, y_N, sample_weight=weight_N)
    if len(model.coef_) > 1:
        return model.coef_ - model.coef_.mean(axis=0), model.intercept_ - model.intercept_.mean()
    return model.coef_, model.intercept_


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("c", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize(("n", "dim", "classes"), [(80, 5, 2), (80, 5, 3), (20, 60, 3), (9, 2, 4)])
def test_coefficients_and_objective_are_those_of_scikit_learn(blobs, n, dim, classes, c, intercept):
    x_ND, y_N = blobs(n, dim, classes, spread=2.0)
    x_ND = x_ND.astype(np.float64)
    model = LogisticPath(c, fit_intercept=intercept).fit(x_ND, y_N)
    coef, bias = _reference(x_ND, y_N, c, fit_intercept=intercept)
    assert model.coef_.shape == coef.shape
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.intercept_, bias if intercept else 0 * bias, rtol=1e-5, atol=1e-5)
    share_N = np.full(n, 1 / n)
    f = plain_objective(x_ND, y_N, share_N, model.coef_, model.intercept_, 1 / (c * n))
    want = plain_objective(x_ND, y_N, share_N, coef, np.broadcast_to(bias, len(coef)), 1 / (c * n))
    assert f <= want * (1 + 1e-9)
    assert model.objectives_[0] == pytest.approx(f, rel=1e-9)
    assert model.gaps_[0] <= 1e-9 * f


@pytest.mark.parametrize("classes", [50, 300])
def test_many_classes(blobs, classes):
    x_ND, y_N = blobs(3 * classes, 8, classes, spread=2.0)
    model = LogisticPath(0.1, tol=1e-8).fit(x_ND.astype(np.float64), y_N)
    coef, bias = _reference(x_ND.astype(np.float64), y_N, 0.1, solver="lbfgs")
    share_N = np.full(len(y_N), 1 / len(y_N))
    want = plain_objective(x_ND.astype(np.float64), y_N, share_N, coef, bias, 1 / (0.1 * len(y_N)))
    assert model.objectives_[0] <= want + model.gaps_[0] + 1e-9 * want
    assert model.objectives_[0] - model.gaps_[0] <= want
    np.testing.assert_allclose(model.coef_, coef, atol=1e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 2: 0.25}])
def test_weights_are_those_of_scikit_learn(blobs, class_weight):
    x_ND, y_N = blobs(90, 4, 3, spread=2.0)
    weight_N = np.random.default_rng(0).exponential(size=90)
    model = LogisticPath(0.5, class_weight=class_weight).fit(x_ND, y_N, weight_N)
    if isinstance(class_weight, dict):
        class_weight = {1: 1.0, **class_weight}
    coef, bias = _reference(x_ND.astype(np.float64), y_N, 0.5, weight_N, class_weight=class_weight)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-6)
    np.testing.assert_allclose(model.intercept_, bias, atol=1e-6)


def test_samples_and_classes_without_weight_are_not_there(blobs):
    x_ND, y_N = blobs(80, 3, 4, spread=2.0)
    weight_N = np.where((y_N == 2) | (np.arange(80) % 7 == 0), 0.0, 1.0)
    model = LogisticPath().fit(np.where(weight_N[:, None] > 0, x_ND, 1e6), y_N, weight_N)
    alone = LogisticPath().fit(x_ND[weight_N > 0], y_N[weight_N > 0])
    assert model.classes_.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(model.coef_, alone.coef_)
    by_class = LogisticPath(class_weight={2: 0}).fit(x_ND, y_N)
    np.testing.assert_array_equal(by_class.coef_, LogisticPath().fit(x_ND[y_N != 2], y_N[y_N != 2]).coef_)


@pytest.mark.parametrize("kind", ["duplicates", "constant", "scales", "rare", "separable", "far"])
def test_odd_samples(blobs, kind):
    x_ND, y_N = blobs(60, 5, 3, spread=1.5)
    x_ND = x_ND.astype(np.float64)
    if kind == "duplicates":
        x_ND, y_N = np.repeat(x_ND[:12], 5, axis=0), np.repeat(y_N[:12], 5)
    elif kind == "constant":
        x_ND[:, [1, 3]] = 4.0
    elif kind == "scales":
        x_ND *= np.array([1e-6, 1e-3, 1, 1e3, 1e6])
    elif kind == "rare":
        y_N = np.where(np.arange(60) == 17, 5, np.where(np.arange(60) == 18, 6, y_N))
    elif kind == "separable":
        x_ND += 30 * np.eye(5)[y_N]
    else:
        x_ND += 1e5
    for c in (1e-3, 1.0, 1e4):
        outcome = judge(Case(kind, x_ND, np.unique(y_N, return_inverse=True)[1], None, [c], {"fit_intercept": True}))
        assert (outcome.name, outcome.what) == ("agrees", "")
        assert outcome.gap < 1e-6


def test_constant_columns_get_no_weight(blobs):
    x_ND, y_N = blobs(60, 5, 3)
    x_ND[:, 2] = 1.0
    assert np.abs(LogisticPath().fit(x_ND, y_N).coef_[:, 2]).max() < 1e-12


def test_a_path_holds_every_value_ascending(blobs):
    x_ND, y_N = blobs(120, 4, 3, spread=2.0)
    model = LogisticPath([10.0, 1e-3, 0.1, 10.0]).fit(x_ND, y_N)
    assert model.Cs_.tolist() == [1e-3, 0.1, 10.0]
    assert (model.coefs_.shape, model.intercepts_.shape, model.scores_.shape) == ((3, 3, 4), (3, 3), (5, 3))
    for c, coef, bias, objective, gap in zip(
        model.Cs_, model.coefs_, model.intercepts_, model.objectives_, model.gaps_, strict=True
    ):
        alone = LogisticPath(c).fit(x_ND, y_N)
        np.testing.assert_allclose(coef, alone.coef_, atol=1e-7)
        np.testing.assert_allclose(bias, alone.intercept_, atol=1e-7)
        assert objective == pytest.approx(alone.objectives_[0], rel=1e-12)
        assert 0 <= gap <= 1e-9 * objective
    best = int(model.scores_.mean(axis=0).argmax())
    assert model.Cs_[best] == model.C_
    np.testing.assert_array_equal(model.coef_, model.coefs_[best])


def test_c_is_chosen_by_the_folds_of_a_splitter_as_a_grid_search_chooses_it(blobs):
    x_ND, y_N = blobs(150, 6, 3, spread=4.0)
    cs, cv = [1e-4, 1e-2, 1.0], StratifiedKFold(4, shuffle=True, random_state=3)
    for scoring in ("accuracy", "neg_log_loss", None):
        model = LogisticPath(cs, cv=cv, scoring=scoring).fit(x_ND, y_N)
        search = GridSearchCV(LogisticRegression(tol=1e-8, max_iter=5000), {"C": cs}, cv=cv, scoring=scoring)
        search.fit(x_ND.astype(np.float64), y_N)
        np.testing.assert_allclose(model.scores_.mean(axis=0), search.cv_results_["mean_test_score"], atol=1e-5)
        assert search.best_params_["C"] == model.C_
    by_hand = LogisticPath(cs, cv=list(cv.split(x_ND, y_N)), scoring=lambda m, x, y: -abs(m.score(x, y) - 0.5))
    assert by_hand.fit(x_ND, y_N).scores_.max() <= 0


def test_folds_are_seeded_and_rare_classes_stay_in_train(blobs):
    x_ND, y_N = blobs(60, 4, 3, spread=3.0)
    y_N[0] = 7
    scores = [LogisticPath([0.1, 1.0], random_state=seed).fit(x_ND, y_N).scores_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()
    assert LogisticPath([0.1, 1.0], random_state=np.random.RandomState(0)).fit(x_ND, y_N).C_ in (0.1, 1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_type_gives_float64_and_the_optimum_of_its_numbers(blobs, dtype):
    x_ND, y_N = blobs(80, 5, 3, spread=2.0)
    model = LogisticPath(0.3).fit(x_ND.astype(dtype), y_N)
    coef, _ = _reference(x_ND.astype(dtype).astype(np.float64), y_N, 0.3)
    assert model.coef_.dtype == np.float64
    np.testing.assert_allclose(model.coef_, coef, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_large_float64_is_rounded_only_where_that_changes_nothing(blobs, monkeypatch, exact):
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 100)
    monkeypatch.setattr("tle.heads.logistic_path.SMALL_VALUES", 100)
    monkeypatch.setattr("tle.heads.exact.problem.TINY_PASS", 100)
    x_ND, y_N = blobs(200, 5, 3, spread=2.0)
    x_ND = x_ND.astype(np.float64) if exact else x_ND.astype(np.float64) * (1 + 1e-9)
    seen = []
    from tle.heads import logistic_path

    make = logistic_path.make_problem
    monkeypatch.setattr(logistic_path, "make_problem", lambda *a, **k: seen.append(make(*a, **k)) or seen[-1])
    model = LogisticPath(1.0, tol=1e-9).fit(x_ND, y_N)
    assert seen[0].design.dtype == (np.float32 if exact else np.float64)
    f = plain_objective(x_ND, y_N, np.full(200, 1 / 200), model.coef_, model.intercept_, 1 / 200)
    assert model.objectives_[0] == pytest.approx(f, rel=1e-12)
    assert model.gaps_[0] <= 1e-9 * f


def test_what_is_not_certified_is_said_with_the_gap(blobs):
    x_ND, y_N = blobs(200, 20, 4, spread=0.5)
    with pytest.warns(ConvergenceWarning) as caught:
        model = LogisticPath(100.0, max_iter=2).fit(x_ND, y_N)
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith(
        f"the objective at C=100 is certified to a relative gap of {model.gaps_[0] / model.objectives_[0]:.1e}"
    )
    assert "\n" not in message
    exact = LogisticPath(100.0).fit(x_ND, y_N)
    assert model.objectives_[0] - model.gaps_[0] <= exact.objectives_[0] <= model.objectives_[0]
    with pytest.warns(ConvergenceWarning, match="at 2 of 2 values of C, most at C="):
        LogisticPath([1.0, 100.0], max_iter=1, cv=2).fit(x_ND, y_N)


def test_probabilities_sum_to_one_and_belong_to_the_decision(blobs):
    for classes in (2, 4):
        x_ND, y_N = blobs(80, 3, classes)
        names = np.array(["d", "a", "c", "b"])[y_N]
        model = LogisticPath(1e4).fit(x_ND, names)
        p_NK = model.predict_proba(1e3 * x_ND)
        np.testing.assert_allclose(p_NK.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(model.classes_[p_NK.argmax(axis=1)], model.predict(1e3 * x_ND))
        assert np.isfinite(model.predict_log_proba(1e3 * x_ND)).all()
        assert model.decision_function(x_ND).shape == ((80,) if classes == 2 else (80, 4))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"C": 0}, "C should be a finite number above 0, or a sequence of them, got 0"),
        ({"C": [1.0, -1.0]}, "got -1.0"),
        ({"C": []}, "C is an empty sequence"),
        ({"C": "1"}, "got '1'"),
        ({"C": np.inf}, "got inf"),
        ({"tol": 0}, "tol should be a number above 0, got 0"),
        ({"max_iter": -1}, "max_iter should be a number above 0"),
        ({"class_weight": "even"}, "class_weight should be 'balanced'"),
        ({"class_weight": {9: 1.0}}, "class_weight names 9, which is no class of y"),
        ({"class_weight": {0: -1.0}}, "finite and at least 0"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, "class_weight is 0 for every class"),
        ({"device": "tpu"}, "device should be cpu or cuda, got 'tpu'"),
        ({"C": [0.1, 1.0], "cv": 1}, "cv should be at least 2 folds, got 1"),
    ],
)
def test_settings_out_of_range(blobs, settings, match):
    with pytest.raises(UsageError, match=match):
        LogisticPath(**settings).fit(*blobs(30, 3, 3))


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (np.zeros(30), "zero for every sample"),
        (np.full(30, -1.0), "at least 0 everywhere"),
        (np.full(30, np.nan), "finite"),
        (np.ones(29), r"expected sample_weight \(30,\), got \(29,\)"),
        (np.full(30, 1e308), "its sum is infinite"),
    ],
)
def test_weights_out_of_range(blobs, weight, match):
    with pytest.raises(UsageError, match=match):
        LogisticPath().fit(*blobs(30, 3, 3), weight)


def test_one_class_is_refused_as_scikit_learn_refuses_it(blobs):
    x_ND, y_N = blobs(30, 3, 3)
    for y, weight in ((np.zeros(30), None), (y_N, (y_N == 1).astype(float))):
        with pytest.raises(
            ValueError, match="needs samples of at least 2 classes in the data, but the data contains only one"
        ):
            LogisticPath().fit(x_ND, y, weight)
    with pytest.raises(ValueError, match="a fold of cv has samples of one class only to fit on"):
        LogisticPath([0.1, 1.0], cv=GroupKFold(2).split(x_ND[:4], y_N[:4], [0, 0, 1, 1])).fit(x_ND[:4], [0, 0, 1, 1])
    with pytest.raises(UsageError, match="no class has two samples, so that no C can be chosen by folds"):
        LogisticPath([0.1, 1.0]).fit(x_ND[:3], y_N[:3])
    assert LogisticPath([0.1, 1.0], cv=LeaveOneOut()).fit(x_ND, y_N).scores_.shape == (30, 2)


def test_features_beyond_any_sum_are_refused(blobs):
    x_ND, y_N = blobs(30, 3, 3)
    with pytest.raises(UsageError, match="scale them down"):
        LogisticPath().fit(x_ND.astype(np.float64) * 1e150, y_N)


def test_it_is_cloned_and_exported(blobs):
    model = LogisticPath([0.1, 1.0], tol=1e-6)
    assert clone(model).get_params() == model.get_params()
    assert tle.LogisticPath is LogisticPath
    from tle import heads

    assert heads.LogisticPath is LogisticPath
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        heads.Other  # noqa: B018


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [2, 4])
def test_cuda_gives_what_the_cpu_gives(blobs, cuda, classes, dtype):
    """Float64 that float32 cannot hold is solved in float64 there too."""
    x_ND, y_N = blobs(300, 8, classes, spread=2.0)
    x_ND = x_ND.astype(np.float64) + 1e-10 if dtype == "float64" else x_ND.astype(dtype)
    ours, theirs = (
        LogisticPath([0.01, 0.1], tol=1e-6, device=device).fit(x_ND[::-1], y_N[::-1]) for device in ("cuda", "cpu")
    )
    assert len(cuda) == 6  # all samples and five folds
    assert ours.C_ == theirs.C_
    np.testing.assert_allclose(ours.objectives_, theirs.objectives_, rtol=1e-6)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    assert (ours.gaps_ <= 1e-6 * ours.objectives_).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(blobs):
    with pytest.raises(UsageError, match="device is cuda, but torch finds no CUDA device: take device=cpu"):
        LogisticPath(device="cuda").fit(*blobs(30, 3, 3))


def test_on_the_cpu_torch_is_not_loaded():
    code = "import sys, numpy as np, tle, tle.heads.exact.problem as problem\n"
    code += "problem.SMALL_VALUES = 0\n"
    code += "x = np.random.default_rng(0).normal(size=(400, 8)).astype('float32')\n"
    code += "tle.LogisticPath([0.01, 0.1]).fit(x, np.arange(400) % 3)\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@st.composite
def _cases(draw):
    n, dim, classes = draw(st.integers(2, 14)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    numbers = st.one_of(
        st.sampled_from([0.0, 1.0, -1.0]), st.floats(-100, 100), st.floats(-1e-6, 1e-6), st.floats(-1e6, 1e6)
    )
    x_ND = draw(arrays(np.float64, (n, dim), elements=numbers))
    y_N = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    weight_N = draw(st.none() | arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.0, 1e-3, 50.0])))
    c = 10 ** draw(st.floats(-6, 5))
    return Case("drawn", x_ND, y_N, weight_N, [c], {"fit_intercept": draw(st.booleans())})


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(case=_cases())
def test_any_small_problem_agrees_or_is_refused(case):
    outcome = judge(case)
    assert not outcome.bad, f"{outcome.name}: {outcome.what}"
