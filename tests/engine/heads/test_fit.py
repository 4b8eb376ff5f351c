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
    assert fit["versions"].keys() == {"tle", "numpy", "scikit-learn"}


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
            r"unknown head 'logistc'; did you mean logistic\? \(heads: logistic, linear, ridge, knn, ",
        ),
        ({"head": "svm"}, "unknown head 'svm'"),
        ({"head": "ridge", "params": ["alhpa=1"]}, r"no parameter 'alhpa'; did you mean alpha\?"),
        ({"params": ["C"]}, "name=value"),
        ({"params": {"C": "strong"}}, "takes a number above 0, got 'strong'"),
        ({"head": "sklearn:sklearn.svm.LinearSVC", "params": ["D=1"]}, "no parameter 'D'"),
        ({"head": "sklearn:sklearn.linear_model.Lasso"}, "not a classifier"),
        ({"val_fraction": 1.5}, "val_fraction"),
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
    fitted = fit_head(make_cache(x_ND, y_N), head=kind, val_fraction=0)
    odd = x_ND[:30].copy()
    odd[:, 5] = 0.5  # thousands of standard deviations, and an ordinary value beside the other features
    agree = (fitted.head.predict(odd).argmax(axis=1) == fitted.head.predict(x_ND[:30]).argmax(axis=1)).mean()
    assert agree > 0.85
    assert any("1 of 6 features hardly vary" in note for note in fitted.notes)


def test_importing_heads_loads_neither_torch_nor_scikit_learn():
    code = "import sys, tle.heads.head, tle.heads.fit; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
