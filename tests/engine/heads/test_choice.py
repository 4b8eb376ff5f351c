"""Which setting is taken: best, ties, one standard error; and when a sweep has turned."""

import pytest

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads.choice import TURNED_AFTER, Rule, Trial, choose, clearly_turned, make_rule
from tle.heads.figures import Figure

RULE = Rule("accuracy", "nll")


def trial(c, *folds):
    """A trial from (accuracy, nll) or (accuracy, nll, s.e. of accuracy) of each fold; None for one that diverged."""
    figures = [None if f is None else {"accuracy": Figure(f[0], *f[2:]), "nll": Figure(f[1], 0.01)} for f in folds]
    return Trial(settings={"C": c}, figures=figures, details=[{}] * len(folds), carried=[{}] * len(folds))


def test_the_metric_decides_then_the_likelihood_then_the_simpler():
    assert choose([trial(1, (0.7, 1)), trial(2, (0.9, 5)), trial(3, (0.8, 0))], RULE).taken == 1
    assert choose([trial(1, (0.9, 1)), trial(2, (0.9, 0.5)), trial(3, (0.8, 0))], RULE).taken == 1
    assert choose([trial(1, (0.8, 1)), trial(2, (0.9, 0.5)), trial(3, (0.9, 0.5))], RULE).taken == 1
    assert choose([trial(1, (0.8, 1)), trial(2, (0.9, 0.5))], Rule("nll", None)).taken == 1


def test_means_over_folds_that_differ_by_the_order_of_their_sum_are_equal():
    first, second = [(0.1, 1), (0.2, 1), (0.3, 1)], [(0.3, 1), (0.2, 1), (0.1, 1)]
    assert choose([trial(1, *first), trial(2, *second)], RULE, 3).taken == 0
    assert choose([trial(1, *second), trial(2, *first)], RULE, 3).taken == 0


def test_one_standard_error_takes_the_simplest_that_is_near_enough():
    trials = [
        trial(1, (0.80, 2, 0.02)),
        trial(2, (0.88, 2, 0.02)),
        trial(3, (0.90, 1, 0.02)),
        trial(4, (0.89, 1, 0.02)),
    ]
    found = choose(trials, Rule("accuracy", "nll", one_se=True))
    assert (found.taken, found.best) == (1, 2)
    assert choose(trials, RULE).taken == 2


def test_one_standard_error_of_a_loss():
    losses = [(3.0, 0.2), (2.1, 0.2), (2.0, 0.2)]
    trials = [Trial(settings={"alpha": i}, figures=[{"mse": Figure(*f)}]) for i, f in enumerate(losses)]
    assert choose(trials, Rule("mse", None, one_se=True)).taken == 1


def test_only_what_was_tried_in_all_folds_and_did_not_diverge_can_be_taken():
    trials = [trial(1, (0.5, 1), (0.5, 1)), trial(2, (0.9, 1)), trial(3, (0.9, 1), None)]
    assert choose(trials, RULE, 2).taken == 0
    assert trials[1].record(RULE.names, 2)["folds"] == 1
    assert trials[2].record(RULE.names, 2) == {"C": 3, "diverged": True}
    with pytest.raises(HeadError, match="no setting gave finite validation scores"):
        choose(trials[1:], RULE, 2)


def test_a_row_of_the_table_has_the_mean_and_the_spread_over_folds():
    row = Trial(
        settings={"C": 1},
        figures=[
            {"accuracy": Figure(0.6, 0.1), "nll": Figure(1.0)},
            {"accuracy": Figure(0.8, 0.1), "nll": Figure(2.0)},
        ],
        details=[{"n_iter": 3, "converged": True, "why": "a"}, {"n_iter": 5, "converged": False, "why": "b"}],
    ).record(RULE.names, 2)
    assert row == {
        "C": 1,
        "accuracy": pytest.approx(0.7),
        "accuracy_se": pytest.approx(0.1),
        "nll": 1.5,
        "nll_se": pytest.approx(0.5),
        "n_iter": 5,
        "converged": False,
        "why": ["a", "b"],
    }


def _history(*pairs, se=0.01):
    return [None if p is None else {"accuracy": Figure(p[0], se), "nll": Figure(p[1], se)} for p in pairs]


def test_a_sweep_has_turned_only_where_both_figures_are_clearly_worse_four_times_in_a_row():
    best, worse, near, one = (0.9, 0.5), (0.87, 0.53), (0.885, 0.53), (0.9, 0.9)
    assert clearly_turned(_history(best, *[worse] * TURNED_AFTER), RULE)
    assert not clearly_turned(_history(best, *[worse] * (TURNED_AFTER - 1)), RULE)
    assert not clearly_turned(_history(best, worse, near, worse, worse), RULE)  # 1.5 standard errors
    assert not clearly_turned(_history(best, *[one] * 9), RULE)  # likelihood alone
    assert clearly_turned(_history(best, worse, None, worse, worse), RULE)
    assert not clearly_turned(_history(None, None, None, None, None), RULE)
    assert not clearly_turned(_history(*[worse] * 9, best), RULE)


def test_the_larger_of_two_standard_errors_counts():
    """All right on val: the spread is 0, and yet one picture less says nothing."""
    history = [{"accuracy": Figure(1.0, 0.0)}, *[{"accuracy": Figure(0.98, 0.02)}] * 5]
    assert not clearly_turned(history, Rule("accuracy", None))


def test_rules():
    assert make_rule(Target.CLASS, 3, metric=None, one_se=False, folds=0) == Rule("accuracy", "nll")
    assert make_rule(Target.REGRESSION, 0, metric="mae", one_se=False, folds=0) == Rule("mae", "mse")
    assert make_rule(Target.MULTILABEL, 3, metric="nll", one_se=True, folds=0) == Rule("nll", None, True)
    with pytest.raises(UsageError, match=r"mAP has no standard error on one set of pictures: take folds"):
        make_rule(Target.MULTILABEL, 3, metric=None, one_se=True, folds=0)
    assert make_rule(Target.MULTILABEL, 3, metric=None, one_se=True, folds=3).one_se
