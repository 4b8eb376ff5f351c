"""A few pictures a class: what is drawn, what a fit sees, and what is measured."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from threadpoolctl import threadpool_limits

from tle.cache import open_cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.comparison_plot import plot_few_shot
from tle.enums import Split, Target
from tle.errors import HeadError, UsageError
from tle.fewshot import few_shot, spread_of
from tle.heads.driver import fit_task
from tle.heads.folds import deal_folds
from tle.heads.samples import Samples, Task
from tle.metrics import measure

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST
N = 300
LABELS = np.random.default_rng(1).permutation(np.arange(N) % 3)
SPLITS = np.array([TRAIN] * 150 + [VAL] * 50 + [TEST] * 100, np.uint8)
FEATURES = (
    np.random.default_rng(2).normal(size=(3, 8))[LABELS] + 1.2 * np.random.default_rng(3).normal(size=(N, 8))
).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def write(tmp_path):
    numbers = iter(range(100))

    def make(features=FEATURES, labels=LABELS, splits=SPLITS, target=Target.CLASS, classes=("ant", "bee", "cat")):
        content = Content(
            ids=[f"{row:03}.jpg" for row in range(len(labels))],
            labels=labels,
            classes=list(classes),
            splits=np.asarray(splits, np.uint8),
            target=target,
            dim=features.shape[1],
            dtype="float32",
            spec={
                "backbone": {"name": "x/y", "weights_digest": "ab", "dim": features.shape[1]},
                "preprocess": {},
                "decoder": "pillow",
                "precision": "float32",
            },
            run={},
        )
        writer = CacheWriter.create(tmp_path / f"c{next(numbers)}.h5", content)
        with writer:
            rows = np.arange(len(labels))
            writer.write(rows, features, (rows + 1).astype(np.uint64))
            return open_cache(writer.finish(replace=False))

    return make


def drawn_rows(repeat, k, seed=0):
    """The documented draw: the first k of a seeded order of each class of train."""
    rng = np.random.default_rng([seed, repeat])
    orders = [rng.permutation(np.flatnonzero(LABELS[:150] == label)) for label in range(3)]
    return np.sort(np.concatenate([order[:k] for order in orders]))


def fit_by_hand(rows, k):
    nothing = np.zeros(0, np.int64)
    task = Task(
        Samples(FEATURES, rows, LABELS[rows]), Samples(FEATURES, nothing, LABELS[nothing]), Target.CLASS,
        ("ant", "bee", "cat"), 0,
    )  # fmt: skip
    return fit_task(task, "logistic", {}, fold_N=deal_folds(LABELS[rows], min(k, 5), 0) if k > 1 else None)


def test_each_fit_is_of_its_own_shots_alone(write):
    result = few_shot(write(), shots=(1, 2, 6), repeats=2)
    assert [(row.k, row.n_train) for row in result.rows] == [(1, 3), (2, 6), (6, 18)]
    assert (result.n, result.measured_on, result.n_classes) == (100, "test", 3)
    for row in result.rows:
        for repeat in range(2):
            fitted = fit_by_hand(drawn_rows(repeat, row.k), row.k)
            want = measure(fitted.model.scores(FEATURES[200:]), LABELS[200:], Target.CLASS).values
            assert row.figures["accuracy"].values[repeat] == want["top1"]
            assert row.figures["balanced_accuracy"].values[repeat] == pytest.approx(want["balanced_accuracy"])
            assert row.figures["macro_f1"].values[repeat] == pytest.approx(want["macro_f1"])
            assert row.figures["nll"].values[repeat] == pytest.approx(want["nll"], rel=1e-5)
            assert row.chosen[repeat]["C"] == fitted.chosen["C"]


def test_nothing_but_the_shots_reaches_a_fit(write):
    """All other pictures of train and val are made nonsense, and not even finite."""
    want = few_shot(write(), shots=(1, 4), repeats=2)
    used = np.unique(np.concatenate([drawn_rows(repeat, 4) for repeat in range(2)]))
    others = np.setdiff1d(np.arange(200), used)
    poisoned = FEATURES.copy()
    poisoned[others] = np.nan
    assert few_shot(write(poisoned), shots=(1, 4), repeats=2).rows == want.rows


def test_other_shots_and_more_repeats_change_no_draw(write):
    cache = write()
    wide, narrow = few_shot(cache, shots=(1, 2, 4, 8), repeats=3), few_shot(cache, shots=[4], repeats=2)
    assert wide.rows[2].figures["accuracy"].values[:2] == narrow.rows[0].figures["accuracy"].values
    assert few_shot(cache, shots=(4, 4, 1), repeats=2).rows[1] == narrow.rows[0]
    assert few_shot(cache, shots=[4], repeats=2, seed=1).rows != narrow.rows
    means = [row.figures["accuracy"].mean for row in wide.rows]
    assert means[-1] > means[0]


def test_the_interval_is_students():
    values = [0.5, 0.6, 0.75]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert spread_of(values).interval == [pytest.approx(low), pytest.approx(high)]
    assert spread_of([0.5]).interval is None


@pytest.mark.parametrize(
    ("splits", "named", "measured_on", "n"),
    [
        (SPLITS, "val", "val", 50),
        (np.where(SPLITS == TEST, VAL, SPLITS), None, "val", 150),
        (np.zeros(N, np.uint8), None, "a seeded 20% of train", 60),
    ],
)
def test_what_is_measured_on(write, splits, named, measured_on, n):
    result = few_shot(write(splits=splits), shots=[2], repeats=1, split=named)
    assert (result.measured_on, result.n) == (measured_on, n)
    assert result.rows[0].figures["accuracy"].interval is None


def test_other_heads_and_metrics(write):
    cache = write()
    result = few_shot(cache, shots=(1, 3), repeats=2, head="sklearn:sklearn.naive_bayes.GaussianNB", metric="nll")
    assert (result.head, result.metric) == ("sklearn:sklearn.naive_bayes.GaussianNB", "nll")
    fixed = few_shot(cache, shots=[2], repeats=2, params=["C=0.1"])
    assert [chosen["C"] for chosen in fixed.rows[0].chosen] == [0.1, 0.1]
    json.dumps(result.to_dict(), allow_nan=False)


def test_rare_classes_give_what_they_have_and_are_said(write):
    labels = LABELS.copy()
    labels[:150][np.flatnonzero(LABELS[:150] == 2)[3:]] = 1
    result = few_shot(write(labels=labels), shots=(2, 8), repeats=2)
    assert [row.n_train for row in result.rows] == [6, 19]
    assert "1 of 3 classes have fewer than 8 pictures to draw and gave all they have" in result.notes
    labels[:150][labels[:150] == 2] = 0
    result = few_shot(write(labels=labels), shots=[2], repeats=1)
    unseen = int((labels[200:] == 2).sum())
    assert f"{unseen} of the 100 pictures measured are of classes without a train picture: all wrong" in result.notes
    assert result.rows[0].figures["accuracy"].mean <= 1 - unseen / 100


def test_what_cannot_be_asked_for(write):
    cache = write()
    for arguments, message in (
        ({"shots": ()}, "at least one number"),
        ({"shots": (0,)}, "whole number of at least 1, got 0"),
        ({"shots": (1.5,)}, "whole number of at least 1, got 1.5"),
        ({"repeats": 0}, "repeats .--repeats. should be"),
        ({"head": "nohead"}, "unknown head"),
        ({"metric": "r2"}, "does not belong to target class"),
        ({"split": "train"}, "split should be val or test"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(UsageError, match=message):
            few_shot(cache, **arguments)
    with pytest.raises(HeadError, match="with 1 pictures a class: 2 values of C were given"):
        few_shot(cache, params={"C": [0.1, 1]})
    values = write(labels=LABELS.astype(np.float32), target=Target.REGRESSION, classes=())
    with pytest.raises(UsageError, match="shots are pictures of a class, but .* has target regression"):
        few_shot(values)
    with pytest.raises(HeadError, match="fewer than two classes"):
        few_shot(write(labels=np.where(SPLITS == TRAIN, 0, LABELS)))


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_picture(write, tmp_path):
    plot_few_shot(few_shot(write(), shots=(1, 2, 4), repeats=2), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.width > 600
    plot_few_shot(few_shot(write(), shots=[3], repeats=1), tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_bytes().startswith(b"<?xml")
