"""Figures against scikit-learn and the formulas written out; which metric belongs to which target."""

import numpy as np
import pytest
from sklearn import metrics

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.figures import METRICS, Figure, check_metric, mean_figure, measure_figures


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(8), 300).astype(np.float32)
    return scores, np.array([rng.choice(8, p=p / p.sum()) for p in scores.astype(np.float64)])


def test_classes_equal_scikit_learn(scored):
    scores, labels = scored
    found = measure_figures(Target.CLASS, METRICS[Target.CLASS], scores, labels)
    predicted = scores.argmax(axis=1)
    assert list(found) == list(METRICS[Target.CLASS])
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["top5"].value == pytest.approx(metrics.top_k_accuracy_score(labels, scores, k=5))
    assert found["nll"].value == pytest.approx(-np.log(scores[np.arange(300), labels]).mean(), rel=1e-5)
    assert found["macro_f1"].se is None


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "top5", "nll"])
def test_a_standard_error_is_the_spread_of_the_figure_over_new_pictures(scored, name):
    scores, labels = scored
    rng = np.random.default_rng(1)
    figure = measure_figures(Target.CLASS, [name], scores, labels)[name]
    drawn = [rng.integers(0, 300, 300) for _ in range(600)]
    again = [measure_figures(Target.CLASS, [name], scores[i], labels[i])[name].value for i in drawn]
    assert figure.se == pytest.approx(np.std(again), rel=0.15)


def test_regression_and_multilabel_equal_scikit_learn():
    rng = np.random.default_rng(0)
    y, predicted = rng.normal(size=50), rng.normal(size=(50, 1)).astype(np.float32)
    found = measure_figures(Target.REGRESSION, ("mse", "mae", "r2"), predicted, y)
    assert found["mse"].value == pytest.approx(metrics.mean_squared_error(y, predicted[:, 0]))
    assert found["mae"].value == pytest.approx(metrics.mean_absolute_error(y, predicted[:, 0]))
    assert found["r2"].value == pytest.approx(metrics.r2_score(y, predicted[:, 0]))
    assert found["mse"].se == pytest.approx(np.std((y - predicted[:, 0]) ** 2, ddof=1) / np.sqrt(50))
    p, truth = rng.random((40, 3)).astype(np.float32), rng.integers(0, 2, (40, 3)).astype(np.uint8)
    found = measure_figures(Target.MULTILABEL, ("mAP", "nll"), p, truth)
    assert found["mAP"] == Figure(pytest.approx(metrics.average_precision_score(truth, p)), None)
    assert found["nll"].value == pytest.approx(metrics.log_loss(truth.ravel(), p.ravel().astype(np.float64)), rel=1e-5)
    assert measure_figures(Target.MULTILABEL, ["mAP"], p, 0 * truth)["mAP"].value is None
    assert measure_figures(Target.REGRESSION, ["r2"], predicted, 0 * y)["r2"].value is None


def test_folds_are_averaged_where_the_figure_is_defined():
    assert mean_figure([Figure(0.5, 0.1)]) == Figure(0.5, 0.1)
    found = mean_figure([Figure(0.5, 0.1), Figure(None), Figure(0.7), Figure(0.9)])
    assert found.value == pytest.approx(0.7)
    assert found.se == pytest.approx(0.2 / np.sqrt(3))
    assert mean_figure([Figure(None), Figure(None)]) == Figure(None)


@pytest.mark.parametrize(
    ("metric", "target", "message"),
    [
        ("acuracy", Target.CLASS, "unknown metric 'acuracy'; did you mean accuracy"),
        ("mAP", Target.CLASS, "metric mAP does not belong to target class: take one of accuracy, "),
        ("accuracy", Target.REGRESSION, "does not belong to target regression: take one of mse, mae, r2"),
        ("top5", Target.CLASS, "metric top5 is always 1 with 5 classes"),
    ],
)
def test_metrics_that_cannot_decide(metric, target, message):
    with pytest.raises(UsageError, match=message) as caught:
        check_metric(metric, target, 5)
    assert "\n" not in str(caught.value)
    assert check_metric(None, target, 5) == METRICS[target][0]
