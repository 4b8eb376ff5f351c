"""Backbones side by side: which rows are compared, what is refused, and what the figures are."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from tle.cache import open_cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.comparison import compare
from tle.comparison_plot import plot_comparison
from tle.enums import Split, Target
from tle.errors import CacheError, HeadError, OutputError, UsageError
from tle.evaluation import evaluate
from tle.heads.fit import fit_head
from tle.heads.samples import Samples
from tle.ranking import Standing, give_verdict
from tle.transferability import measure_transferability

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST
N_CLASSES = 3
LABELS = np.random.default_rng(1).permutation(np.arange(240) % N_CLASSES)
SPEC = {"preprocess": {}, "decoder": "pillow", "precision": "float32"}
SPLITS = np.array([TRAIN] * 120 + [VAL] * 40 + [TEST] * 80, np.uint8)


@pytest.fixture(autouse=True)
def _one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def write(tmp_path):
    """write(name, spread, ...): features of the same 240 pictures by a backbone that is the better the smaller `spread`."""

    def make(
        name,
        spread,
        *,
        dim=6,
        labels=LABELS,
        splits=SPLITS,
        target=Target.CLASS,
        classes=("ant", "bee", "cat"),
        order=None,
        failed=(),
        dtype="float32",
        seed=0,
        digests=None,
        ids=None,
        backbone=None,
    ):
        n = len(labels)
        rng = np.random.default_rng([seed, round(100 * spread)])
        known = labels if target is Target.CLASS else np.zeros(n, np.int64)
        x_ND = rng.normal(size=(N_CLASSES, dim))[known] + spread * rng.normal(size=(n, dim))
        if target is Target.REGRESSION:
            x_ND[:, 0] += labels
        if target is Target.MULTILABEL:
            x_ND[:, : labels.shape[1]] += labels
        order = np.arange(n) if order is None else order
        ids = [f"{row:03}.jpg" for row in range(n)] if ids is None else ids
        digests = np.arange(1, n + 1, dtype=np.uint64) if digests is None else digests
        content = Content(
            ids=[ids[row] for row in order],
            labels=labels[order],
            classes=[] if target is Target.REGRESSION else list(classes),
            splits=splits[order],
            target=target,
            dim=dim,
            dtype=dtype,
            spec={"backbone": {"name": backbone or f"x/{name}", "weights_digest": name, "dim": dim}, **SPEC},
            run={},
        )
        writer = CacheWriter.create(tmp_path / f"{name}.h5", content)
        rows = np.flatnonzero(~np.isin(order, failed))
        with writer:
            writer.write(rows, x_ND[order[rows]].astype(np.float32), digests[order[rows]])
            for row in np.flatnonzero(np.isin(order, failed)):
                writer.fail(row, "truncated", 0)
            return open_cache(writer.finish(replace=False))

    return make


def facts(result):
    """Everything but what a clock gave."""
    rows = [replace(row, seconds=0.0, transferability_seconds=0.0) for row in result.contenders]
    return replace(result, contenders=tuple(rows))


def test_each_probe_is_fit_head_and_evaluate(write):
    good, bad = write("good", 0.5), write("bad", 3.0, dim=9)
    result = compare([bad, good], params={"C": [0.01, 0.1]})
    assert [row.name for row in result.contenders] == ["good", "bad"]
    assert (result.n, result.n_train, result.measured_on, result.metric) == (80, 160, "test", "accuracy")
    for row, cache in zip(result.contenders, (good, bad), strict=True):
        fitted = fit_head(cache, params={"C": [0.01, 0.1]})
        figures = evaluate(fitted.head, cache).metrics
        assert row.standing.value == figures["top1"] == row.figures["top1"]
        assert row.figures["nll"] == pytest.approx(figures["nll"])
        assert row.chosen == [fitted.chosen]
        want = measure_transferability(Samples(cache.features, np.arange(120), cache.labels[:120]), Target.CLASS, 3)
        assert row.transferability == want
    assert result.contenders[0].transferability.logme > result.contenders[1].transferability.logme
    best, other = (row.standing for row in result.contenders)
    assert best.behind_interval is None
    assert other.behind == pytest.approx(best.value - other.value)
    assert other.behind_interval[0] <= other.behind <= other.behind_interval[1]
    assert other.told_apart
    assert other.behind_probability == 1
    assert result.verdict.startswith("good is better than bad by ")


def test_the_order_of_arguments_and_rows_and_storage_types(write):
    shuffled = np.random.default_rng(5).permutation(240)
    caches = [write("a", 1.0), write("b", 1.5, order=shuffled), write("c", 1.2, dim=300, dtype="float16")]
    straight = write("plain", 1.5)  # the features of b, rows in their order
    first = compare(caches)
    assert facts(first) == facts(compare(caches[::-1])) == facts(compare([caches[1], caches[2], caches[0]]))
    assert {row.dtype for row in first.contenders} == {"float16", "float32"}
    beside = compare([caches[1], straight])
    one, two = (row.standing for row in beside.contenders)
    assert one.value == two.value
    assert two.behind == 0
    assert not two.told_apart
    assert "cannot be told apart on these 80 pictures" in beside.verdict


def test_only_pictures_that_all_have_count(write):
    clean, hurt = write("clean", 1.0), write("hurt", 1.0, seed=1, failed=[0, 1, 170, 239])
    result = compare([clean, hurt])
    assert (result.n, result.n_train) == (78, 158)
    assert "4 of 240 pictures have no features in hurt and are left out of all" in result.notes
    assert not [note for note in result.notes if "no split" in note or "failed in the extraction" in note]


def test_without_a_test_split_some_is_set_apart(write):
    splits = np.full(240, Split.NONE, np.uint8)
    caches = [write("a", 1.0, splits=splits), write("b", 1.3, splits=splits)]
    result = compare(caches)
    assert (result.n, result.n_train) == (48, 192)
    assert result.measured_on == "a seeded 20% of train"
    assert compare(caches, test_fraction=0.5).n == 120
    assert facts(compare(caches, seed=1)) != facts(result)


def test_folds_measure_every_picture_once(write):
    splits = np.where(SPLITS == TEST, TRAIN, SPLITS).astype(np.uint8)
    result = compare([write("a", 1.0, splits=splits), write("b", 1.3, splits=splits)], folds=4)
    assert result.n == 240
    assert len(result.contenders[0].chosen) == 4
    assert result.measured_on == "all of train, by 4 folds"


def test_val_can_be_measured_and_is_then_not_chosen_on(write):
    caches = [write("a", 1.0), write("b", 1.3)]
    result = compare(caches, split="val")
    assert (result.n, result.n_train, result.measured_on) == (40, 120, "val")


def test_test_pictures_are_in_no_fit(write):
    """The labels of the pictures measured may be anything: settings, and scores that need no fit, stay what they are."""
    labels = LABELS.copy()
    labels[SPLITS == TEST] = (labels[SPLITS == TEST] + 1) % N_CLASSES
    caches = [write("a", 1.0), write("b", 1.3)]
    turned = []
    for number, cache in enumerate(caches):
        turned.append(write(f"t{number}", 1.0, labels=labels))
        raw = np.memmap(turned[-1].path, np.uint8, "r+")
        slot = turned[-1].slots["features"]
        raw[slot.offset : slot.offset + slot.nbytes] = np.ascontiguousarray(cache.features).view(np.uint8).ravel()
        raw.flush()
    first = {row.backbone[-1]: row for row in compare(caches).contenders}
    second = {row.backbone[-1]: row for row in compare([open_cache(cache.path) for cache in turned]).contenders}
    for name, other in (("a", "0"), ("b", "1")):
        assert first[name].chosen == second[other].chosen
        assert first[name].transferability == second[other].transferability
        assert first[name].standing.value > 0.5 > second[other].standing.value


def test_a_manifest_gives_splits_to_all(write, tmp_path):
    caches = [write("a", 1.0), write("b", 1.3, splits=np.roll(SPLITS, 7))]
    with pytest.raises(CacheError, match="other splits .* give the splits for both"):
        compare(caches)
    lines = [f"{row:03}.jpg,{'train' if row < 200 else 'test'}" for row in range(240)]
    for row in range(240):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{row:03}.jpg")
    (tmp_path / "m.csv").write_text("path,split\n" + "\n".join(lines))
    assert compare(caches, splits=tmp_path / "m.csv").n == 40


def test_other_targets(write):
    values = np.random.default_rng(2).normal(size=240).astype(np.float32)
    caches = [write(name, spread, labels=values, target=Target.REGRESSION) for name, spread in (("a", 0.3), ("b", 2.0))]
    result = compare(caches)
    assert (result.metric, result.head, result.lower_is_better) == ("mse", "ridge", True)
    assert [row.name for row in result.contenders] == ["a", "b"]
    assert result.contenders[0].standing.value < result.contenders[1].standing.value
    assert result.contenders[1].standing.behind > 0
    assert result.contenders[0].transferability.h_score is None
    assert compare(caches, metric="r2").contenders[0].name == "a"
    several = np.stack([LABELS == 0, LABELS >= 1], axis=1).astype(np.uint8)
    kinds = {"labels": several, "target": Target.MULTILABEL, "classes": ("x", "y")}
    result = compare([write("c", 0.3, **kinds), write("d", 2.0, **kinds)])
    assert (result.metric, result.contenders[0].name) == ("mAP", "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.where(np.arange(240) < 2, -1, LABELS)}, "other labels for 2 of 240 pictures .first: 000.jpg"),
        ({"classes": ("ant", "bee", "dog")}, r"lacks 1 of the 3 classes of .*h5 \('(cat|dog)'\): extract both"),
        ({"classes": ("bee", "ant", "cat")}, "the same classes in another order"),
        ({"digests": np.arange(2, 242, dtype=np.uint64)}, "other bytes for 240 of 240 pictures"),
        ({"ids": ["x.jpg", *(f"{row:03}.jpg" for row in range(1, 240))]}, "lacks 1 of the 240 pictures"),
        ({"labels": LABELS.astype(np.float32), "target": Target.REGRESSION}, "has target"),
        (
            {"labels": LABELS[:200], "splits": SPLITS[:200]},
            r"b.h5 lacks 40 of the 240 pictures of .*a.h5 .first: 200.jpg",
        ),
    ],
    ids=["labels", "classes", "order of classes", "bytes", "ids", "target", "fewer"],
)
def test_what_does_not_match_is_refused_whichever_comes_first(write, changes, message):
    a, b = write("a", 1.0), write("b", 1.0, **changes)
    lines = set()
    for caches in ([a, b], [b, a]):
        with pytest.raises(CacheError, match=message) as caught:
            compare(caches)
        lines.add(str(caught.value))
    assert len(lines) == 1
    assert "\n" not in lines.pop()


def test_imported_features_are_matched_by_id(write):
    result = compare(
        [write("a", 1.0), write("b", 1.0, digests=np.arange(900, 1140, dtype=np.uint64), backbone="imported:clip")]
    )
    assert "features that tle did not make have no digests of pictures: they were matched by id alone" in result.notes


def test_what_cannot_be_asked_for(write, tmp_path):
    caches = [write("a", 1.0), write("b", 1.3)]
    for arguments, message in (
        ({"split": "train"}, "split should be val or test"),
        ({"folds": 4}, "there is a test split"),
        ({"folds": 1}, "folds"),
        ({"metric": "r2"}, "does not belong to target class"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"head": "nohead"}, "unknown head"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(caches, **arguments)
    with pytest.raises(UsageError, match="at least two caches to compare, got 1"):
        compare(caches[:1])
    with pytest.raises(UsageError, match="is named twice"):
        compare([caches[0], str(caches[0].path)])
    with pytest.raises(OutputError, match="read by this very command"):
        compare(caches, output=caches[1].path, overwrite=True)
    with pytest.raises(HeadError, match="no labels"):
        none = {"labels": np.full(240, -1), "target": Target.NONE, "classes": ()}
        compare([write("c", 1.0, **none), write("d", 1.0, **none)])


def test_twins_of_the_fit_are_said(write):
    digests = np.arange(1, 241, dtype=np.uint64)
    digests[200] = digests[3]
    result = compare([write("a", 1.0, digests=digests), write("b", 1.3, digests=digests)])
    assert any(note.startswith("1 of the pictures measured are byte for byte the same") for note in result.notes)


def test_everything_is_written(write, tmp_path):
    result = compare([write("a", 1.0), write("b", 1.3)], output=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(result.to_dict()))


def standing(behind, low, high, told_apart):
    return Standing(
        value=0.9 - behind, interval=[0, 1], behind=behind, behind_interval=[low, high], told_apart=told_apart
    )


def test_the_verdict_says_what_the_figures_allow():
    best = ("b", Standing(value=0.9, interval=[0.88, 0.92]))
    far, near = ("a", standing(0.021, 0.008, 0.034, True)), ("c", standing(0.002, -0.004, 0.009, False))
    assert give_verdict([best, far], "accuracy", 400) == "b is better than a by 2.1 points (95 %: 0.8 to 3.4)"
    assert give_verdict([best, near], "accuracy", 400) == (
        "b and c cannot be told apart on these 400 pictures: c is behind by 0.2 points (95 %: -0.4 to 0.9)"
    )
    assert give_verdict([best, near, far], "accuracy", 400).endswith("; b is better than a")
    assert give_verdict([best, far, far], "macro_f1", 400) == (
        "b is better than a by 2.1 points of macro_f1 (95 %: 0.8 to 3.4), and still more so than a"
    )
    level = ("c", standing(0.01, -0.0001, 0.02, False))
    assert "by 1.0 points (95 %: 0.0 to 2.0)" in give_verdict([best, level], "accuracy", 400)
    assert "by 0.021 of nll (95 %: 0.008 to 0.034)" in give_verdict([best, far], "nll", 400)


def test_a_few_lucky_pictures_prove_nothing(write):
    """Where the two differ on four pictures only, all for one of them, the bootstrap alone would be sure."""
    from tle.ranking import rank_models

    labels = np.zeros(1000, np.int64)
    right = np.tile(np.float32([0.9, 0.1]), (1000, 1))
    worse = right.copy()
    worse[:4] = [0.1, 0.9]
    (_, _), (_, second) = rank_models([worse, right], labels, Target.CLASS, "accuracy")
    assert second.behind_interval[0] > 0
    assert second.sign_test_p == 0.125
    assert not second.told_apart


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_picture(write, tmp_path):
    result = compare([write("a", 0.5), write("b", 3.0), write("c", 0.52)])
    plot_comparison(result, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0x29, 0x80, 0xB9), (0xC0, 0x39, 0x2B)} <= colours  # the best, and one that is told apart
    plot_comparison(result, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")
