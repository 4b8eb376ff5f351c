"""Measuring a head on a cache: which rows, which classes, leaks, and refusals."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tle.cache import open_cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Target
from tle.errors import FingerprintError, HeadError, OutputError, UsageError
from tle.evaluation import evaluate
from tle.heads.fit import fit_head
from tle.metrics import measure

N, TRAIN, VAL, TEST = Split.NONE, Split.TRAIN, Split.VAL, Split.TEST
SPEC = {
    "backbone": {"name": "timm/a", "weights": "W", "weights_digest": "ab", "layer": "l", "dim": 4},
    "preprocess": {"resize": 256, "mean": [0.5, 0.5, 0.5]},
    "decoder": "pillow",
    "precision": "float32",
}
NAMES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def write(tmp_path):
    """write(labels, ...) makes a cache whose features follow from the class names, and opens it."""
    numbers = iter(range(100))

    def make(
        labels, *, classes=NAMES, splits=None, target=Target.CLASS, first_digest=1, failed=(), spec=SPEC, features=None
    ):
        n, number = len(labels), next(numbers)
        if features is None:
            centres = {name: np.random.default_rng(sum(map(ord, name))).normal(size=4) for name in classes}
            known = labels if labels.ndim == 1 and target is Target.CLASS else np.zeros(n, np.int64)
            mean = np.stack([centres[classes[label]] for label in known]) if classes else np.zeros((n, 4))
            features = mean + 0.4 * np.random.default_rng(number).normal(size=(n, 4))
        content = Content(
            ids=[f"{row:03}.jpg" for row in range(n)],
            labels=labels,
            classes=list(classes),
            splits=np.asarray([N] * n if splits is None else splits, np.uint8),
            target=target,
            dim=4,
            dtype="float32",
            spec=spec,
            run={},
        )
        writer = CacheWriter.create(tmp_path / f"c{number}.h5", content)
        good = np.setdiff1d(np.arange(n), failed)
        with writer:
            writer.write(good, features[good].astype(np.float32), (good + first_digest).astype(np.uint64))
            for row in failed:
                writer.fail(row, "truncated", 0)
            return open_cache(writer.finish(replace=False))

    return make


@pytest.fixture
def cache(write):
    return write(np.arange(90) % 3, splits=[TRAIN] * 60 + [TEST] * 30)


@pytest.fixture
def head(cache):
    return fit_head(cache, params={"C": 0.1}).head


def test_the_test_split_is_measured_by_default(cache, head):
    result = evaluate(head, cache)
    assert (result.split, result.n, result.n_left_out, result.seen_in_fit) == ("test", 30, 0, 0)
    want = measure(head.predict(cache.features[60:]), cache.labels[60:], Target.CLASS)
    assert result.metrics == want.values
    assert result.metrics["top1"] > 0.8


def test_files_are_as_good_as_objects_and_everything_is_written(cache, head, tmp_path):
    path = head.save(tmp_path / "a.head")
    result = evaluate(str(path), str(cache.path), output=tmp_path / "figures.json", seed=4)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert written["classes"] == list(NAMES)
    assert written["metrics"]["confusion"] == result.metrics["confusion"]
    assert sorted(p.name for p in tmp_path.glob("figures*")) == ["figures.json"]


def test_an_input_is_never_the_output(head, cache, tmp_path):
    path = head.save(tmp_path / "a.head")
    before = path.read_bytes(), cache.path.read_bytes()
    for given, output in ((cache, path), (cache.path, path), (cache, cache.path), (str(cache.path), cache.path)):
        with pytest.raises(OutputError, match="read by this very command"):
            evaluate(path, given, output=output, overwrite=True)
    assert (path.read_bytes(), cache.path.read_bytes()) == before


def test_figures_replace_the_old_ones_whole_and_leave_nothing_else(head, cache, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "figures.json").write_text("x" * 10**6, encoding="utf-8")
    result = evaluate(head, cache, output=folder / "figures.json", overwrite=True)
    text = (folder / "figures.json").read_text(encoding="utf-8")
    assert json.loads(text) == result.to_dict()
    assert text.endswith("}\n")
    assert [entry.name for entry in folder.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**32])
def test_a_seed_out_of_range(head, cache, seed):
    with pytest.raises(UsageError, match=r"seed \(--seed\) should be a whole number"):
        evaluate(head, cache, seed=seed)


def test_the_output_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "figures.json").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        evaluate(tmp_path / "no.head", tmp_path / "no.h5", output=tmp_path / "figures.json")
    with pytest.raises(HeadError, match="no such file"):
        evaluate(tmp_path / "no.head", tmp_path / "no.h5", output=tmp_path / "figures.json", overwrite=True)
    assert (tmp_path / "figures.json").read_text() == "precious"


@pytest.mark.parametrize(("split", "n", "seen"), [("train", 60, 60), ("test", 30, 0), ("all", 90, 60)])
def test_pictures_of_the_fit_are_counted_and_said(cache, head, split, n, seen):
    result = evaluate(head, cache, split=split)
    assert (result.n, result.seen_in_fit) == (n, seen)
    leaks = [note for note in result.notes if "were in the fit" in note]
    assert leaks == (
        [f"{seen} of {n} pictures measured were in the fit: these figures flatter the head"] if seen else []
    )


def test_a_test_split_that_repeats_train_pictures_is_found_out(head, write):
    leaky = write(np.arange(30) % 3, splits=[TEST] * 30, first_digest=51)  # digests 51 to 80; the fit saw 1 to 60
    assert evaluate(head, leaky).seen_in_fit == 10


def test_without_test_split_the_cache_of_the_fit_is_refused(write):
    cache = write(np.arange(60) % 3)
    head = fit_head(cache, params={"C": 0.1}).head
    with pytest.raises(
        UsageError, match=r"no test split and shares 60 pictures with the fit: .*--splits MANIFEST.*\(--split\)"
    ):
        evaluate(head, cache)
    assert evaluate(head, cache, split="all").seen_in_fit == 60


def test_without_test_split_another_cache_is_measured_whole(head, write):
    result = evaluate(head, write(np.arange(21) % 3, first_digest=1000))
    assert (result.split, result.n, result.seen_in_fit) == ("all", 21, 0)


def test_unlabelled_and_failed_pictures_are_left_out_and_counted(head, write):
    labels = np.arange(30) % 3
    labels[:4] = -1
    result = evaluate(head, write(labels, splits=[TEST] * 20 + [TRAIN] * 10, failed=[5, 6, 25], first_digest=1000))
    assert (result.n, result.n_left_out) == (14, 6)
    assert "4 of 30 pictures have no label and are left out" in result.notes


def test_an_empty_split(cache, head, write):
    with pytest.raises(HeadError, match=r"no labelled picture in split 'val' \(0 pictures are in it\)"):
        evaluate(head, cache, split="val")
    with pytest.raises(HeadError, match=r"split 'test' \(9 pictures are in it\)"):
        evaluate(head, write(np.full(9, -1), splits=[TEST] * 9))


def test_unknown_split(cache, head):
    with pytest.raises(UsageError, match="one of train, val, test, all; got 'testing'"):
        evaluate(head, cache, split="testing")


def test_splits_given_instead_of_those_of_the_cache(cache, head, tmp_path):
    splits = np.array([TRAIN] * 85 + [TEST] * 5, np.uint8)
    assert evaluate(head, cache, splits=splits).n == 5
    with (tmp_path / "s.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], *([f"{row:03}.jpg", "test"] for row in range(70, 90))])
    assert evaluate(head, cache, splits=tmp_path / "s.csv").n == 20


def test_another_fingerprint_is_refused_with_what_differs(head, write):
    other = {**SPEC, "preprocess": {"resize": 224, "mean": [0.5, 0.5, 0.5]}, "decoder": "other/1"}
    with pytest.raises(FingerprintError) as caught:
        evaluate(head, write(np.arange(6) % 3, spec=other))
    text = str(caught.value)
    assert "preprocess.resize: head 256, cache 224" in text
    assert 'cache "other/1"' in text
    assert "mean" not in text
    assert "\n" not in text


def test_another_precision_is_said_and_not_refused(head, write):
    result = evaluate(head, write(np.arange(21) % 3, spec={**SPEC, "precision": "bfloat16"}, first_digest=1000))
    assert any("fitted on float32 features, those of" in note and "are bfloat16" in note for note in result.notes)
    assert not any("fitted on" in note for note in evaluate(head, write(np.arange(21) % 3, first_digest=1000)).notes)


def test_keys_of_one_side_only_are_differences_too(head, write):
    spec = {**SPEC, "backbone": {**SPEC["backbone"], "weights": "elsewhere", "pool": "avg"}}
    with pytest.raises(FingerprintError, match=r'\(backbone\.pool: head null, cache "avg"\)'):
        evaluate(head, write(np.arange(6) % 3, spec=spec))


def test_where_the_weights_were_read_from_does_not_matter(head, write):
    spec = {**SPEC, "backbone": {**SPEC["backbone"], "weights": "elsewhere"}}
    assert evaluate(head, write(np.arange(21) % 3, spec=spec, first_digest=1000)).n == 21


def test_classes_are_matched_by_name_not_by_number(head, write):
    swapped = write(np.arange(40) % 2, classes=("cat", "ant"), first_digest=1000)
    result = evaluate(head, swapped)
    assert result.classes == NAMES
    assert result.metrics["top1"] > 0.8
    assert np.array(result.metrics["confusion"]).sum(axis=1).tolist() == [20, 0, 20]


def test_a_class_that_the_head_does_not_know(head, write):
    with pytest.raises(HeadError, match=r"pictures of 1 classes that the head does not know \('dog'\)"):
        evaluate(head, write(np.arange(8) % 4, classes=(*NAMES, "dog"), first_digest=1000))
    # Named in the cache, but without a picture: nothing is lost.
    assert evaluate(head, write(np.arange(9) % 3, classes=(*NAMES, "dog"), first_digest=1000)).n == 9


def test_another_target(head, write):
    values = write(np.arange(9, dtype=np.float32), target=Target.REGRESSION, classes=())
    with pytest.raises(HeadError, match="fitted for target class, .* has target regression"):
        evaluate(head, values)
    with pytest.raises(HeadError, match="has no labels"):
        evaluate(head, write(np.full(9, -1), target=Target.NONE, classes=(), features=np.zeros((9, 4))))


def test_features_that_are_not_finite_are_named(head, write):
    features = np.zeros((9, 4))
    features[7, 2] = np.inf
    with pytest.raises(HeadError, match=r"in 1 of 9 pictures \(first: 007\.jpg\)"):
        evaluate(head, write(np.arange(9) % 3, features=features, first_digest=1000))


def test_multilabel_columns_are_matched_by_name(write):
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.5).astype(np.uint8)
    features = np.concatenate([labels * 2.0, np.zeros((80, 1))], axis=1) + 0.3 * rng.normal(size=(80, 4))
    cache = write(labels, target=Target.MULTILABEL, features=features, splits=[TRAIN] * 60 + [TEST] * 20)
    head = fit_head(cache, params={"C": 0.1}).head
    whole = evaluate(head, cache)
    assert whole.metrics["mAP"] > 0.95
    part = write(
        labels[60:, [2, 0]], classes=("cat", "ant"), target=Target.MULTILABEL, features=features[60:], first_digest=1000
    )
    result = evaluate(head, part)
    assert result.classes == ("cat", "ant")
    want = measure(head.predict(cache.features[60:])[:, [2, 0]], labels[60:, [2, 0]], Target.MULTILABEL)
    assert result.metrics == want.values
    assert f"1 of 3 labels of the head are unknown to {part.path.name} and are not measured" in result.notes
    strange = write(
        labels, classes=("ant", "bee", "dog"), target=Target.MULTILABEL, features=features, first_digest=1000
    )
    with pytest.raises(HeadError, match="'dog'"):
        evaluate(head, strange)


def test_regression(write):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4))
    values = (features @ np.array([1.0, 2.0, 0.0, -1.0])).astype(np.float32)
    cache = write(values, target=Target.REGRESSION, classes=(), features=features, splits=[TRAIN] * 40 + [TEST] * 20)
    result = evaluate(fit_head(cache).head, cache)
    assert result.metrics["r2"] > 0.95
    assert result.classes == ()


def test_the_head_of_another_dimension_cannot_slip_through(cache, head):
    with pytest.raises(ValueError, match="expected float features"):
        evaluate(replace(head, dim=5), cache)
