import numpy as np
import pytest

from tle.enums import Target
from tle.finetuning.scoring import Scored
from tle.finetuning.verdict import describe_verdict, judge


def scored(right, n=40, rows=None, labels=None):
    """Two classes, of which the first `right` pictures are told rightly."""
    labels = np.arange(n) % 2 if labels is None else labels
    probability = np.where(np.arange(n) < right, 0.9, 0.1)
    scores = np.where(labels[:, None] == np.arange(2), probability[:, None], 1 - probability[:, None]).astype("f")
    return Scored(np.arange(n) if rows is None else rows, scores, labels, 0.0, right / n)


def verdict(head, tuned, *, keep="best", metric="accuracy"):
    return judge(head, tuned, target=Target.CLASS, metric=metric, keep=keep, seed=0)


def test_what_wins_by_more_than_noise_is_kept():
    found = verdict(scored(20), scored(36))
    assert (found["kept"], found["won"], found["n"]) == ("finetuned", True, 40)
    assert (found["head"], found["finetuned"]) == (0.5, 0.9)
    assert found["difference"] == pytest.approx(0.4)
    assert found["interval"][0] > 0
    assert found["p"] == pytest.approx(2 * 0.5**16)  # 16 pictures changed, all for the better
    assert describe_verdict(found).startswith("fine-tuning won: accuracy 0.9000 against 0.5000")


@pytest.mark.parametrize(("head", "tuned"), [(20, 10), (20, 20), (20, 21), (0, 1)])
def test_a_tie_a_loss_and_noise_leave_the_head(head, tuned):
    found = verdict(scored(head), scored(tuned))
    assert (found["kept"], found["won"]) == ("head", False)
    assert "did not win by more than noise" in describe_verdict(found)
    for keep in ("finetuned", "last"):
        found = verdict(scored(head), scored(tuned), keep=keep)
        assert (found["kept"], found["won"]) == ("finetuned", False)
        assert describe_verdict(found).endswith("it is kept all the same, as --keep says")


def test_where_less_is_better_the_difference_is_still_positive_for_better():
    found = verdict(scored(20), scored(36), metric="nll")
    assert found["finetuned"] < found["head"]
    assert found["difference"] == pytest.approx(found["head"] - found["finetuned"])
    assert found["won"]
    assert found["p"] is None


def test_only_pictures_that_both_could_read_count():
    rows = np.arange(1, 41)
    tuned = scored(36, rows=rows, labels=rows % 2)
    assert verdict(scored(20), tuned)["n"] == 39


def test_a_metric_that_is_not_defined_compares_nothing():
    head, tuned = (
        Scored(np.arange(3), np.full((3, 1), value, "f"), np.ones(3, "f"), 0.0, None) for value in (1.0, 2.0)
    )
    found = judge(head, tuned, target=Target.REGRESSION, metric="r2", keep="best", seed=0)
    assert (found["kept"], found["difference"]) == ("head", None)
    assert "not defined" in describe_verdict(found)


def spread(margins, labels):
    """Two classes; log-odds of the true one, a picture."""
    p = 1 / (1 + np.exp(-np.asarray(margins)))
    scores = np.where(labels[:, None] == np.arange(2), p[:, None], 1 - p[:, None]).astype("f")
    return Scored(np.arange(len(labels)), scores, labels, 0.0, float((p > 0.5).mean()))


def test_where_accuracies_tie_the_true_class_s_probability_decides_and_only_by_more_than_noise():
    labels = np.arange(200) % 2
    rng = np.random.default_rng(0)
    right = np.where(np.arange(200) < 160, 1.0, -1.0)
    margins = right * rng.uniform(0.1, 3.0, 200)
    head = spread(margins, labels)
    better = spread(np.where(right > 0, 2.0, -0.2), labels)
    found = verdict(head, better)
    assert found["difference"] == 0
    assert (found["kept"], found["decided_by"]) == ("finetuned", "truth")
    assert found["truth"]["finetuned"] > found["truth"]["head"]
    assert "both at their best temperature" in describe_verdict(found)
    same = spread(margins * (1 + 0.05 * rng.normal(size=200)), labels)
    assert (verdict(head, same)["kept"], verdict(head, same)["decided_by"]) == ("head", None)


def test_being_more_or_less_sure_is_no_merit_and_a_worse_accuracy_is_never_outweighed():
    labels = np.arange(200) % 2
    margins = np.where(np.arange(200) < 160, 1.0, -1.0) * np.linspace(0.5, 6.0, 200)
    for factor in (0.2, 2.0):
        assert verdict(spread(margins, labels), spread(margins * factor, labels))["kept"] == "head"
    worse = np.where(np.arange(200) < 159, 9.0, -0.1)
    found = verdict(spread(margins, labels), spread(worse, labels))
    assert (found["kept"], found["truth"]) == ("head", None)
