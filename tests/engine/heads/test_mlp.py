"""Networks by name."""

import numpy as np
import pytest

from tle.enums import Target
from tle.errors import UsageError
from tle.heads import mlp
from tle.heads.estimator import Estimator
from tle.heads.params import Params


def _refit(task, **params):
    params = Params("mlp", {"hidden": 16, **params})
    return mlp.refit(task, params, task.both, mlp.default_settings(params), (), len(task.both))


def test_learns_what_no_linear_head_can_and_the_same_with_the_same_seed(make_task):
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(600, 2)).astype(np.float32)
    labels = (x_ND[:, 0] * x_ND[:, 1] > 0).astype(np.int64)
    task = make_task(x_ND, labels, n_val=200)
    settings = Params("mlp", {"hidden": [32], "alpha": 1e-4, "lr": 0.02})
    first, second = (next(iter(mlp.attempts(task, settings, task.train, task.val))) for _ in range(2))
    assert (first.scores.argmax(axis=1) == labels[400:]).mean() > 0.9
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.settings == {"alpha": 1e-4}


def test_alphas_come_largest_first(make_task, blobs):
    task = make_task(*blobs(120, 4, 3), n_val=30)
    params = Params("mlp", {"hidden": 4, "alpha": [0.1, 10.0]})
    assert [attempt.settings["alpha"] for attempt in mlp.attempts(task, params, task.train, task.val)] == [10.0, 0.1]


def test_a_class_with_one_picture_trains_without_early_stopping_and_says_so(make_task, blobs):
    x_ND, y_N = blobs(60, 4, 2)
    y_N[0] = 2
    fitted = _refit(make_task(x_ND, y_N), max_iter=300, lr=0.01)
    assert any("without early stopping" in note for note in fitted.notes)
    assert (fitted.model.scores(x_ND).argmax(axis=1) == y_N).mean() > 0.8
    assert not any("early stopping" in note for note in _refit(make_task(*blobs(60, 4, 2))).notes)


def test_regression_far_from_zero_and_stored(make_task):
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(400, 3)).astype(np.float32)
    values = (1e5 + 1e3 * np.abs(x_ND[:, 0])).astype(np.float32)
    model = _refit(make_task(x_ND, values, target=Target.REGRESSION), lr=0.01, alpha=1e-4).model
    assert np.corrcoef(model.scores(x_ND)[:, 0], values)[0, 1] > 0.9
    again = Estimator.load(
        model.record(), model.tensors(), *model.files().values(), target=Target.REGRESSION, outputs=1, dim=3
    )
    np.testing.assert_array_equal(again.scores(x_ND), model.scores(x_ND))


def test_multilabel(make_task, blobs):
    x_ND, y_N = blobs(300, 6, 3, spread=0.5)
    labels = np.stack([y_N == 0, y_N == 1], axis=1).astype(np.uint8)
    scores = _refit(make_task(x_ND, labels, target=Target.MULTILABEL), lr=0.01).model.scores(x_ND)
    assert ((scores > 0.5) == labels).mean() > 0.9


@pytest.mark.parametrize("hidden", [0, [], "wide", [8, True]])
def test_widths_are_checked(make_task, blobs, hidden):
    with pytest.raises(UsageError, match="hidden of head mlp takes the width"):
        _refit(make_task(*blobs(20, 3, 2)), hidden=hidden)
