"""fit_head from cache to file: defaults, records, determinism, and every refusal in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tle.enums import Split, Target
from tle.errors import CacheError, HeadError, OutputError, UsageError
from tle.heads.fit import fit_head
from tle.heads.head import load_head

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST


@pytest.fixture
def cache(make_cache, blobs):
    x_ND, y_N = blobs(120, 6, 3, spread=1.5)
    return make_cache(x_ND, y_N, splits=[TRAIN] * 90 + [TEST] * 30)


def test_a_path_to_a_cache_is_enough(cache, tmp_path):
    result = fit_head(str(cache.path), tmp_path / "a.head")
    assert (result.kind, result.path, result.n_train, result.n_val) == ("logistic", tmp_path / "a.head", 81, 9)
    assert result.val["n"] == 9
    assert "top1_interval" in result.val
    assert "confusion" not in result.val
    assert load_head(result.path).fit["chosen"] == result.chosen
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_record_says_how_the_head_came_about(cache):
    fit = fit_head(cache, params=["C=[0.01,1]", "max_iter=500"], seed=3).head.fit
    assert fit["seed"] == 3
    assert fit["settings"] == {"C": [0.01, 1], "max_iter": 500}
    assert fit["selection"] == {
        "val_source": "fraction",
        "val_fraction": 0.1,
        "stratified": True,
        "seed": 3,
        "n_train": 81,
        "n_val": 9,
        "n_test_untouched": 30,
        "n_without_split": 0,
    }
    assert [trial["C"] for trial in fit["sweep"]] == [0.01, 1.0]
    assert fit["versions"].keys() == {"tle", "numpy", "scipy"}


def test_the_fit_never_sees_test_pictures(cache, make_cache, blobs):
    x_ND, y_N = blobs(120, 6, 3, spread=1.5)
    poisoned = x_ND.copy()
    poisoned[90:] = np.nan
    other = make_cache(poisoned, np.where(np.arange(120) < 90, y_N, 0), splits=[TRAIN] * 90 + [TEST] * 30)
    first, second = fit_head(cache).head, fit_head(other).head
    np.testing.assert_array_equal(first.model.weight_KD, second.model.weight_KD)
    assert set(first.fit_digests) == set(cache.digests[:90])


def test_the_final_head_is_fitted_on_train_and_val(cache, make_cache, blobs):
    x_ND, y_N = blobs(120, 6, 3, spread=1.5)
    cache = make_cache(x_ND, y_N, splits=[TRAIN] * 80 + [VAL] * 40)
    with_val = fit_head(cache, params={"C": 0.1})
    both = fit_head(cache, params={"C": 0.1 * 80 / 120}, splits=np.full(120, TRAIN), val_fraction=0.0)
    np.testing.assert_allclose(with_val.head.model.weight_KD, both.head.model.weight_KD, rtol=1e-4, atol=1e-6)
    assert len(with_val.head.fit_digests) == 120


@pytest.mark.parametrize("kind", ["logistic", "linear", "ridge", "knn", "sklearn:sklearn.svm.LinearSVC"])
def test_the_same_seed_gives_the_same_file(cache, tmp_path, kind):
    params = {"epochs": 2} if kind == "linear" else {}
    files = [
        fit_head(cache, tmp_path / f"{number}.head", head=kind, seed=seed, params=params).path.read_bytes()
        for number, seed in enumerate([5, 5, 6])
    ]
    assert files[0] == files[1] != files[2]


def test_defaults_follow_the_target(make_cache, blobs):
    x_ND, y_N = blobs(60, 4, 3)
    indicators = np.eye(3, dtype=np.uint8)[y_N]
    multi = fit_head(make_cache(x_ND, indicators, target=Target.MULTILABEL))
    single = fit_head(make_cache(x_ND, y_N.astype(np.float32), target=Target.REGRESSION))
    assert multi.kind == "logistic"
    assert "mAP" in multi.val
    assert single.kind == "ridge"
    assert single.val["r2"] > 0.5


@pytest.mark.parametrize("kind", ["logistic", "linear", "ridge", "knn", "sklearn:sklearn.linear_model.SGDClassifier"])
def test_multilabel_with_every_head(make_cache, blobs, kind):
    x_ND, y_N = blobs(90, 5, 3, spread=0.2)
    labels_NC = np.stack([y_N == 0, y_N >= 1], axis=1).astype(np.uint8)
    result = fit_head(make_cache(x_ND, labels_NC, target=Target.MULTILABEL), head=kind)
    assert result.val["micro_f1"] > 0.9
    assert result.head.predict(x_ND).shape == (90, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_both_storage_types(make_cache, blobs, dtype):
    x_ND, y_N = blobs(90, 5, 3, spread=0.3)
    cache = make_cache(x_ND, y_N, dtype=dtype)
    head = fit_head(cache).head
    assert (head.predict(cache.features).argmax(axis=1) == y_N).mean() > 0.95


def test_splits_given_instead_of_those_of_the_cache(cache):
    splits = np.array([TRAIN] * 60 + [VAL] * 30 + [TEST] * 30)
    result = fit_head(cache, splits=splits)
    assert (result.n_train, result.n_val) == (60, 30)
    assert result.head.fit["selection"]["val_source"] == "split"


def test_unlabelled_and_failed_pictures_are_said(make_cache, blobs):
    x_ND, y_N = blobs(60, 4, 3)
    y_N[:5] = -1
    result = fit_head(make_cache(x_ND, y_N, failed=[10, 11]))
    assert result.n_train + result.n_val == 53
    assert "5 of 60 pictures have no label and are left out" in result.notes
    assert "2 of 60 pictures failed in the extraction and are left out" in result.notes
    assert result.head.fit["notes"] == list(result.notes)


def test_a_class_without_pictures_keeps_its_column(make_cache, blobs):
    x_ND, y_N = blobs(60, 4, 3)
    result = fit_head(make_cache(x_ND, y_N, classes=["a", "b", "c", "never"]))
    assert result.head.predict(x_ND).shape == (60, 4)
    assert result.head.predict(x_ND)[:, 3].max() < 1e-12


def test_single_examples_stay_in_train(make_cache, blobs):
    x_ND, y_N = blobs(60, 4, 2)
    y_N[0] = 2
    result = fit_head(make_cache(x_ND, y_N), val_fraction=0.5)
    assert result.n_val == 30
    assert result.val["top1"] > 0.5
    assert result.head.predict(x_ND[:1])[0, 2] > 0.01  # a class that was never seen would be below 1e-12


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.zeros(6, np.int64), ["cat"], "all 6 pictures of .* are of one class, 'cat': at least two are needed"),
        (np.zeros(6, np.int64), ["cat", "dog"], "are of one class, 'cat'"),
        (np.full(6, -1), ["cat", "dog"], "no labelled picture to train on"),
        (np.arange(6) % 2, [str(i) for i in range(9)], "9 classes but only 6 labelled pictures"),
    ],
)
def test_labels_that_teach_nothing(make_cache, blobs, labels, classes, message):
    with pytest.raises(HeadError, match=message):
        fit_head(make_cache(blobs(6, 3, 2)[0], labels, classes=classes))


def test_other_targets_that_teach_nothing(make_cache, blobs):
    x_ND = blobs(6, 3, 2)[0]
    with pytest.raises(HeadError, match="carry the same labels"):
        fit_head(make_cache(x_ND, np.tile(np.uint8([1, 0]), (6, 1)), target=Target.MULTILABEL))
    with pytest.raises(HeadError, match="all 6 labels of .* are 2.5"):
        fit_head(make_cache(x_ND, np.full(6, 2.5, np.float32), target=Target.REGRESSION))
    with pytest.raises(HeadError, match="2 labels of .* are infinite"):
        fit_head(make_cache(x_ND, np.float32([1, 2, 3, 4, np.inf, -np.inf]), target=Target.REGRESSION))
    with pytest.raises(HeadError, match="has no labels"):
        fit_head(make_cache(x_ND, np.full(6, -1), classes=[], target=Target.NONE))


def test_features_that_are_not_finite_are_named(make_cache, blobs):
    x_ND, y_N = blobs(30, 3, 2)
    x_ND[[4, 9], 1] = np.nan
    with pytest.raises(
        HeadError, match=r"NaN or infinite features in 2 of 30 pictures \(first: 0004\.png, 0009\.png\)"
    ):
        fit_head(make_cache(x_ND, y_N))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"head": "logistc"},
            r"unknown head 'logistc'; did you mean logistic\? \(heads: logistic, linear, ridge, lda, ",
        ),
        ({"head": "forest"}, "unknown head 'forest'"),
        ({"head": "ridge", "params": ["alhpa=1"]}, r"no parameter 'alhpa'; did you mean alpha\?"),
        ({"params": ["C"]}, "name=value"),
        ({"params": {"C": "strong"}}, "takes a number above 0, got 'strong'"),
        ({"head": "sklearn:sklearn.svm.LinearSVC", "params": ["D=1"]}, "no parameter 'D'"),
        ({"head": "sklearn:sklearn.linear_model.Lasso"}, "not a classifier"),
        ({"val_fraction": 1.5}, "val_fraction"),
        ({"folds": 1}, r"folds \(--folds\) should be 2 or more, or 0 for none, got 1"),
        ({"folds": 3, "refit": False}, "leave out --no-refit, or --folds"),
        ({"metric": "mse"}, "metric mse does not belong to target class: take one of accuracy, "),
        ({"metric": "macro_f1", "one_se": True}, "macro_f1 has no standard error"),
        ({"seed": -1}, r"seed \(--seed\) should be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 1.5}, "whole number .*, got 1.5"),
        ({"seed": True}, "whole number .*, got True"),
        ({"seed": "1"}, "whole number .*, got '1'"),
        ({"seed": 2**32}, "whole number"),
    ],
)
def test_wrong_usage(cache, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        fit_head(cache, **options)
    assert "\n" not in str(caught.value)


def test_logistic_on_a_regression_target(make_cache, blobs):
    x_ND, y_N = blobs(30, 3, 3)
    cache = make_cache(x_ND, y_N.astype(np.float32), target=Target.REGRESSION)
    with pytest.raises(
        UsageError, match="head logistic cannot be fitted on target regression: take one of linear, ridge, knn"
    ):
        fit_head(cache, head="logistic")


def test_the_output_is_checked_before_the_cache_is_even_opened(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        fit_head(tmp_path / "missing.h5", tmp_path / "nowhere" / "a.head")
    (tmp_path / "a.head").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        fit_head(tmp_path / "missing.h5", tmp_path / "a.head")
    with pytest.raises(CacheError, match="no such cache"):
        fit_head(tmp_path / "missing.h5", tmp_path / "b.head")
    assert (tmp_path / "a.head").read_bytes() == b"precious"


def test_overwriting(cache, tmp_path):
    (tmp_path / "a.head").write_bytes(b"old")
    fit_head(cache, tmp_path / "a.head", overwrite=True)
    assert load_head(tmp_path / "a.head").kind == "logistic"


def test_an_input_is_never_the_output(cache, tmp_path):
    before = cache.path.read_bytes()
    link = tmp_path / "link.h5"
    link.symlink_to(cache.path)
    splits = tmp_path / "splits.csv"
    splits.write_text("path,split\n", encoding="utf-8")
    for given, output in ((cache, cache.path), (str(cache.path), cache.path), (cache.path, link), (cache, splits)):
        with pytest.raises(OutputError, match="read by this very command"):
            fit_head(given, output, splits=splits, overwrite=True)
    assert cache.path.read_bytes() == before
    assert splits.read_text(encoding="utf-8") == "path,split\n"


def test_nothing_to_validate_on_is_said(make_cache, blobs):
    result = fit_head(make_cache(*blobs(4, 3, 4)))
    assert (result.n_train, result.n_val, result.val) == (4, 0, {})
    assert any("nothing could be measured" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["logistic", "sklearn:sklearn.linear_model.LogisticRegression"])
def test_more_classes_than_the_pictures_can_teach_are_said_once(make_cache, blobs, kind):
    x_ND, _ = blobs(60, 5, 3)
    numbers = np.arange(60) * 2 // 3  # 40 classes
    notes = fit_head(make_cache(x_ND, numbers), head=kind).notes  # warnings are errors here
    assert [note for note in notes if "unique classes" in note] == []
    (note,) = (note for note in notes if note.startswith("40 classes in 60 pictures"))
    assert "--target regression" in note
    assert not any("fewer than two" in note for note in fit_head(make_cache(*blobs(60, 5, 30)), head=kind).notes)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_picture_with_a_value_where_train_was_all_but_dead_is_not_lost(make_cache, blobs, kind):
    x_ND, y_N = blobs(120, 6, 3, spread=0.5)
    x_ND[:, 5] = 0.0
    x_ND[4, 5] = 1e-4
    # Ridge would choose by leave-one-out, and with next to no penalty even a floored feature can be leant on.
    params = {"alpha": 100.0} if kind == "ridge" else None
    fitted = fit_head(make_cache(x_ND, y_N), head=kind, params=params, val_fraction=0)
    odd = x_ND[:30].copy()
    odd[:, 5] = 0.5  # thousands of standard deviations, and an ordinary value beside the other features
    agree = (fitted.head.predict(odd).argmax(axis=1) == fitted.head.predict(x_ND[:30]).argmax(axis=1)).mean()
    assert agree > 0.85
    assert any("1 of 6 features hardly vary" in note for note in fitted.notes)


def test_folds_hold_out_every_train_picture_once_and_no_test_picture(cache, make_cache, blobs):
    result = fit_head(cache, folds=3, params=["C=[0.001,0.1]"])
    assert (result.n_train, result.n_val, result.folds, result.val["n"]) == (90, 90, 3, 90)
    selection = result.head.fit["selection"]
    assert (selection["val_source"], selection["folds"], selection["n_test_untouched"]) == ("folds", 3, 30)
    assert result.choice["standard_error"] == "over 3 folds"
    assert result.chosen["C_refit"] == pytest.approx(result.chosen["C"] * 60 / 90)
    assert set(result.head.fit_digests) == set(cache.digests[:90])
    assert all({"accuracy_se", "nll_se"} <= row.keys() for row in result.sweep)
    json.dumps(result.to_dict(), allow_nan=False)


def test_folds_and_a_val_split_exclude_each_other(make_cache, blobs):
    cache = make_cache(*blobs(60, 4, 3), splits=[TRAIN] * 40 + [VAL] * 20)
    with pytest.raises(UsageError, match="has a val split of 20 pictures to choose on, and 3 folds were asked for"):
        fit_head(cache, folds=3)


def test_twins_in_another_fold_are_said(make_cache, blobs):
    digests = np.arange(1, 61, dtype=np.uint64)
    digests[1:60:10] = digests[0:60:10]
    notes = fit_head(make_cache(*blobs(60, 4, 3), digests=digests), folds=30, params={"C": 0.1}).notes
    assert any(note.startswith("12 of 60 validation pictures are byte for byte the same") for note in notes)


def test_without_the_last_refit_the_head_is_that_of_train(make_cache, blobs):
    x_ND, y_N = blobs(120, 6, 3, spread=1.5)
    cache = make_cache(x_ND, y_N, splits=[TRAIN] * 80 + [VAL] * 40)
    kept = fit_head(cache, params={"C": 0.1}, refit=False)
    train = fit_head(cache, params={"C": 0.1}, splits=np.array([TRAIN] * 80 + [TEST] * 40), val_fraction=0.0)
    np.testing.assert_array_equal(kept.head.model.weight_KD, train.head.model.weight_KD)
    assert kept.head.fit["refit"] is False
    assert len(kept.head.fit_digests) == 120  # val was chosen on: no figure on it is an honest one


def test_the_metric_of_choice_decides(make_cache, blobs):
    x_ND, y_N = blobs(200, 10, 4, spread=2.0)
    cache = make_cache(x_ND, y_N)
    for metric in ("balanced_accuracy", "nll"):
        result = fit_head(cache, metric=metric, params=["C=[0.0001,0.01,1]"], val_fraction=0.4)
        values = [row[metric] for row in result.sweep]
        (taken,) = (row for row in result.sweep if row.get("chosen"))
        assert taken[metric] == (min(values) if metric == "nll" else max(values))
        assert result.head.fit["choice"]["metric"] == metric


def test_one_standard_error_takes_no_stronger_setting_than_the_best(make_cache, blobs):
    cache = make_cache(*blobs(200, 10, 4, spread=2.0))
    best = fit_head(cache, folds=5)
    plain = fit_head(cache, folds=5, one_se=True)
    assert plain.chosen["C"] <= best.chosen["C"]
    assert plain.choice["best"]["C"] == best.chosen["C"]
    row = next(row for row in plain.sweep if row.get("chosen"))
    top = next(row for row in best.sweep if row.get("chosen"))
    assert row["accuracy"] >= top["accuracy"] - top["accuracy_se"]


@pytest.mark.parametrize("target", [Target.MULTILABEL, Target.REGRESSION])
def test_folds_of_other_targets(make_cache, blobs, target):
    x_ND, y_N = blobs(90, 5, 3, spread=0.5)
    labels = np.eye(3, dtype=np.uint8)[y_N] if target is Target.MULTILABEL else y_N.astype(np.float32)
    result = fit_head(make_cache(x_ND, labels, target=target), folds=4)
    name = "mAP" if target is Target.MULTILABEL else "mse"
    assert all(row[f"{name}_se"] is not None for row in result.sweep)
    assert result.val["n"] == 90


def test_a_temperature_is_reported_and_applied_on_request(make_cache, blobs):
    x_ND, y_N = blobs(300, 30, 3, spread=4.0)
    cache = make_cache(x_ND, y_N, classes=["a", "b", "c", "never"])
    plain, applied = (fit_head(cache, params={"C": 10}, calibrate=on, val_fraction=0.4) for on in (False, True))
    found = applied.calibration
    assert {**found, "applied": False} == plain.calibration == plain.head.fit["calibration"]
    assert found["temperature"] > 1.2  # C = 10 is far too sure on 300 pictures
    assert found["nll_after"] < found["nll_before"]
    weight = plain.head.model.weight_KD / np.float32(found["temperature"])
    np.testing.assert_allclose(applied.head.model.weight_KD, weight, rtol=1e-5)
    assert applied.head.predict(x_ND)[:, 3].max() < 1e-12
    np.testing.assert_array_equal(applied.head.predict(x_ND).argmax(axis=1), plain.head.predict(x_ND).argmax(axis=1))


def test_a_temperature_of_other_kinds(make_cache, blobs):
    cache = make_cache(*blobs(200, 5, 3, spread=2.0))
    svc = fit_head(cache, head="sklearn:sklearn.svm.LinearSVC").calibration
    assert (svc["source"], svc["applied"], svc["nll_before"]) == ("head", True, None)
    knn = fit_head(cache, head="knn", calibrate=True)
    assert knn.calibration["applied"] is False
    assert "a knn head has no place for a temperature: it is reported, not applied" in knn.notes
    bayes = fit_head(cache, head="sklearn:sklearn.naive_bayes.GaussianNB", calibrate=True)
    assert bayes.calibration["applied"]
    assert bayes.head.model.temperature == bayes.calibration["temperature"]
    values = make_cache(blobs(60, 4, 3)[0], np.arange(60, dtype=np.float32), target=Target.REGRESSION)
    with pytest.raises(UsageError, match="a temperature belongs to probabilities"):
        fit_head(values, calibrate=True)
    assert fit_head(values).calibration is None


def test_importing_heads_loads_neither_torch_nor_scikit_learn():
    code = "import sys, tle.heads.head, tle.heads.fit; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
