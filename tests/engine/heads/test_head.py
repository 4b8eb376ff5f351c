"""Heads on disk and in use: equal scores after a round trip, blocks, refusals."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from tle.artefact import read_artefact, write_artefact
from tle.enums import Target
from tle.errors import HeadError, OutputError, ShapeError
from tle.heads.fit import fit_head
from tle.heads.head import load_head

KINDS = ("logistic", "linear", "ridge", "knn", "sklearn:sklearn.svm.LinearSVC")


@pytest.fixture
def cache(make_cache, blobs):
    return make_cache(*blobs(90, 5, 3))


@pytest.fixture
def head(cache):
    return fit_head(cache, params={"C": 0.1}).head


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_head_gives_the_same_scores_and_knows_the_same(cache, blobs, tmp_path, kind):
    params = {"epochs": 2} if kind == "linear" else {}
    result = fit_head(cache, tmp_path / "a.head", head=kind, params=params)
    loaded = load_head(tmp_path / "a.head")
    x_ND = blobs(31, 5, 3, seed=9)[0]
    np.testing.assert_array_equal(loaded.predict(x_ND), result.head.predict(x_ND))
    for name in ("kind", "target", "classes", "dim", "fingerprint"):
        assert getattr(loaded, name) == getattr(result.head, name)
    assert loaded.spec == cache.spec
    assert loaded.fit == json.loads(json.dumps(result.head.fit))
    np.testing.assert_array_equal(loaded.fit_digests, np.unique(cache.digests))
    assert loaded.save(tmp_path / "b.head").read_bytes() == (tmp_path / "a.head").read_bytes()


@pytest.mark.parametrize("kind", ["ridge", "knn", "sklearn:sklearn.linear_model.Lasso"])
def test_a_regression_head_gives_one_value_a_picture(make_cache, blobs, tmp_path, kind):
    x_ND, y_N = blobs(60, 4, 3)
    cache = make_cache(x_ND, y_N.astype(np.float32), target=Target.REGRESSION)
    result = fit_head(cache, tmp_path / "a.head", head=kind)
    loaded = load_head(tmp_path / "a.head")
    assert loaded.predict(x_ND).shape == (60,)
    assert loaded.predict(x_ND[:0]).shape == (0,)
    np.testing.assert_array_equal(loaded.predict(x_ND), result.head.predict(x_ND))
    assert loaded.classes == ()


def test_no_entry_is_a_pickle(cache, tmp_path):
    fit_head(cache, tmp_path / "a.head", head="sklearn:sklearn.ensemble.RandomForestClassifier")
    with zipfile.ZipFile(tmp_path / "a.head") as archive:
        assert archive.namelist() == ["head.json", "tensors.safetensors", "estimator.skops"]
        assert not any(archive.read(name).startswith(b"\x80") for name in archive.namelist())


def test_blocks_and_float_types_do_not_change_scores(head, blobs, monkeypatch):
    x_ND = blobs(57, 5, 3, seed=4)[0]
    whole = head.predict(x_ND)
    monkeypatch.setattr("tle.heads.samples._BLOCK_VALUES", 50)
    np.testing.assert_allclose(head.predict(x_ND), whole, rtol=1e-5)
    np.testing.assert_allclose(head.predict(x_ND.astype(np.float64)), whole, rtol=1e-5)
    np.testing.assert_allclose(head.predict(x_ND.astype(np.float16)), whole, atol=0.01)
    assert head.predict(x_ND).dtype == np.float32
    assert head.predict(x_ND[:0]).shape == (0, 3)


@pytest.mark.parametrize("shape", [(4, 6), (5,), (2, 5, 1)])
def test_wrong_shapes(head, shape):
    with pytest.raises(ShapeError, match=r"expected float features \(N, 5\), got"):
        head.predict(np.zeros(shape, np.float32))


def test_integers_are_refused(head):
    with pytest.raises(ShapeError, match="uint8"):
        head.predict(np.zeros((2, 5), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_features_that_are_not_finite_are_refused(cache, kind, value):
    head = fit_head(cache, head=kind, params={"epochs": 1} if kind == "linear" else {}).head
    x_ND = np.zeros((4, 5), np.float32)
    x_ND[2, 1] = value
    with pytest.raises(HeadError, match=r"in 1 of rows 0 to 3 \(first: row 2\)"):
        head.predict(x_ND)


def test_scores_that_overflow_are_not_handed_out(head):
    steep = replace(head, model=replace(head.model, weight_KD=head.model.weight_KD * 1e6))
    with pytest.raises(HeadError, match="NaN or infinite score"), np.errstate(all="ignore"):
        steep.predict(np.full((1, 5), 3e38, np.float32))


def test_saving_into_a_missing_folder(head, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        head.save(tmp_path / "nowhere" / "a.head")


def _rewrite(path, change):
    """Write a head again with its document and tensors changed."""
    artefact = read_artefact(path, allowed=["estimator.skops"])
    change(artefact.document, artefact.tensors)
    write_artefact(path, artefact.document, artefact.tensors, artefact.files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d.update(format="x"), "not a head of tle"),
        (lambda d, t: d.update(version=2), "head version 2, this version of tle reads 1"),
        (lambda d, t: d.pop("kind"), "is damaged: .*'kind'"),
        (lambda d, t: d.update(target="classes"), "is damaged"),
        (lambda d, t: d.update(target="none"), "is damaged: a head has a target"),
        (lambda d, t: d.update(target="multilabel"), "link sigmoid for target multilabel, found 'softmax'"),
        (lambda d, t: d.update(dim="5"), "is damaged"),
        (lambda d, t: d.update(dim=6), r"'weight' of shape \(3, 6\)"),
        (lambda d, t: d.update(classes="abc"), "list of names"),
        (lambda d, t: d["classes"].append("more"), r"'weight' of shape \(4, 5\)"),
        (lambda d, t: d.update(spec=None), "spec should be a JSON object"),
        (lambda d, t: d["model"].update(type="pickle"), "unknown model type 'pickle'"),
        (lambda d, t: d["model"].clear(), "is damaged"),
        (lambda d, t: t.pop("fit_digests"), "'fit_digests'"),
        (lambda d, t: t.pop("bias"), "'bias'"),
        (lambda d, t: t.update(weight=t["weight"].astype(np.float64)), "float32"),
    ],
)
def test_damaged_heads_are_refused_in_one_line(head, tmp_path, change, message):
    path = head.save(tmp_path / "a.head")
    _rewrite(path, change)
    with pytest.raises(HeadError, match=message) as caught:
        load_head(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_estimator_head_without_its_estimator(cache, tmp_path):
    path = fit_head(cache, tmp_path / "a.head", head=KINDS[-1]).path
    artefact = read_artefact(path, allowed=["estimator.skops"])
    write_artefact(path, artefact.document, artefact.tensors)
    with pytest.raises(HeadError, match=r"is damaged: expected an entry 'estimator\.skops'"):
        load_head(path)


def test_a_cache_is_not_a_head(cache):
    with pytest.raises(HeadError, match="another kind of file"):
        load_head(cache.path)


def test_summary_is_for_people_and_for_json(head):
    summary = json.loads(json.dumps(head.summary()))
    assert summary["kind"] == "logistic"
    assert summary["backbone"]["name"] == "x/y"
    assert summary["pictures"] == 90
