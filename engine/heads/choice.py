"""Which of the settings that were tried is taken.

The best metric decides; equal ones are decided by the cross-entropy (for regression by the absolute error), and then the
simpler setting wins, which is the one that a kind of head tries first.

With the one-standard-error rule it is the simplest setting whose metric is within one standard error of the best.
Source: Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3; Hastie et al. 2009, "The Elements of
Statistical Learning", section 7.10.1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads.figures import LOWER_IS_BETTER, WITHOUT_ERROR, Figure, check_metric, mean_figure

# A sweep has turned where so many settings in a row are worse than the best by so many standard errors. Of settings that
# are as good as the best, one in 44 would be that much worse by chance if they were independent, and hardly any four in a
# row in two figures.
TURNED_AFTER = 4
TURNED_BY = 2.0


@dataclass(frozen=True, slots=True)
class Rule:
    """How settings are compared.

    Attributes:
        metric: what decides.
        second: what decides between equals; None where the metric is all there is.
        one_se: whether the simplest setting within one standard error of the best is taken.
    """

    metric: str
    second: str | None
    one_se: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The figures that have to be measured, the metric first."""
        return (self.metric,) if self.second is None else (self.metric, self.second)


def make_rule(target: Target, n_classes: int, *, metric: str | None, one_se: bool, folds: int) -> Rule:
    """The rule that a user asks for.

    Raises:
        UsageError: the metric does not belong to the target, or the one-standard-error rule has no standard error.
    """
    name = check_metric(metric, target, n_classes)
    if one_se and not folds and name in WITHOUT_ERROR:
        raise UsageError(f"{name} has no standard error on one set of pictures: take folds (--folds 5) for --one-se")
    second = "nll"
    if target is Target.REGRESSION:
        second = "mse" if name == "mae" else "mae"
    return Rule(name, None if second == name else second, one_se)


@dataclass(slots=True, kw_only=True)
class Trial:
    """One setting and what it did in every fold.

    Attributes:
        settings: what was tried.
        figures: figures by name for each fold; None where it diverged.
        details: facts for each fold.
        carried: what the last fit needs, for each fold.
    """

    settings: dict[str, Any]
    figures: list[Mapping[str, Figure] | None] = field(default_factory=list)
    details: list[Mapping[str, Any]] = field(default_factory=list)
    carried: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        """Whether it gave no finite scores in some fold."""
        return any(figures is None for figures in self.figures)

    def figure(self, name: str) -> Figure:
        """The mean over folds."""
        return mean_figure([figures[name] for figures in self.figures if figures is not None])

    def record(self, names: Sequence[str], folds: int) -> dict[str, Any]:
        """A row of the table: settings, figures with standard errors, details.

        Of the details of several folds a number is the largest, and a truth holds where it holds in all.
        """
        row = dict(self.settings)
        if self.diverged:
            return {**row, "diverged": True}
        for name in names:
            found = self.figure(name)
            if found.value is not None:
                row |= {name: found.value, f"{name}_se": found.se}
        for name in dict.fromkeys(name for details in self.details for name in details):
            row.setdefault(name, _join([details[name] for details in self.details if name in details]))
        if len(self.figures) < folds:
            row["folds"] = len(self.figures)
        return row


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen among trials.

    Attributes:
        taken: index of the trial whose settings are taken.
        best: index of the best trial; another one only by the one-standard-error rule.
    """

    taken: int
    best: int


def choose(trials: Sequence[Trial], rule: Rule, folds: int = 1) -> Choice:
    """Apply the rule.

    Args:
        trials: the simplest setting first.
        rule: what decides.
        folds: how many folds a setting has to have been tried in.

    Raises:
        HeadError: no setting gave finite scores in all folds.
    """
    usable = [index for index, trial in enumerate(trials) if not trial.diverged and len(trial.figures) == folds]
    if not usable:
        raise HeadError("no setting gave finite validation scores: lower the learning rate, or look at the features")
    best = min(usable, key=lambda index: (*rank(trials[index], rule), index))
    reference = trials[best].figure(rule.metric)
    if not rule.one_se or reference.value is None or reference.se is None:
        return Choice(best, best)
    worst = _signed(rule.metric, reference.value) + reference.se
    within = [index for index in usable if _value(trials[index], rule.metric) <= worst]
    return Choice(min(within), best)


def rank(trial: Trial, rule: Rule) -> tuple[float, ...]:
    """Smaller is better. Twelve digits count: means over folds that differ by the order of their sum are equal."""
    return tuple(float(f"{_value(trial, name):.12g}") for name in rule.names)


def clearly_turned(history: Sequence[Mapping[str, Figure] | None], rule: Rule) -> bool:
    """Whether validation has turned so clearly that stronger settings need not be tried.

    So it is where each of the last `TURNED_AFTER` settings is worse than the best, both by the metric and by what decides
    between equals, by more than `TURNED_BY` standard errors: the larger one of the two that are compared, and none for a
    figure that has none. A setting that diverged counts as worse.

    Args:
        history: figures of the settings in the order in which they were tried; None where one diverged.
        rule: what decides.
    """
    measured = [figures for figures in history if figures is not None]
    return (
        len(history) > TURNED_AFTER
        and bool(measured)
        and all(
            figures is None or all(_clearly_worse(figures, measured, name) for name in rule.names)
            for figures in history[-TURNED_AFTER:]
        )
    )


def _clearly_worse(figures: Mapping[str, Figure], measured: Sequence[Mapping[str, Figure]], name: str) -> bool:
    """Worse than the best; a figure that is not defined on these pictures has no say."""
    own = figures[name]
    known = [(_signed(name, value), other.se or 0.0) for other, value in _defined(measured, name)]
    if own.value is None or not known:
        return True
    best, error = min(known)
    return _signed(name, own.value) > best + TURNED_BY * max(error, own.se or 0.0)


def _defined(measured: Sequence[Mapping[str, Figure]], name: str) -> Iterator[tuple[Figure, float]]:
    for figures in measured:
        if (value := figures[name].value) is not None:
            yield figures[name], value


def _value(trial: Trial, name: str) -> float:
    value = trial.figure(name).value
    return 0.0 if value is None else _signed(name, value)  # not defined on these pictures, so for no setting


def _signed(name: str, value: float) -> float:
    return value if name in LOWER_IS_BETTER else -value


def _join(values: Sequence[Any]) -> Any:
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int | float) for value in values):
        return max(values)
    return values[0] if all(value == values[0] for value in values) else list(values)
