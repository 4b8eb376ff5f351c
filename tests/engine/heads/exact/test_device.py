"""Passes by torch are those of NumPy, and so are the solutions."""

import numpy as np
import pytest
import torch

from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets, evaluate
from tle.heads.exact.path import solve_path


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 3000)
    z_ND = (rng.normal(size=(4, 30))[labels] + rng.normal(size=(3000, 30))).astype(np.float32)
    return Design(z_ND, None, None, None, np.dtype(np.float32)), Targets(labels, np.full(3000, 1 / 3000), 4)


def test_a_pass_on_a_device_is_a_pass(problem, device):
    design, targets = problem
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, 4, 30)).astype(np.float32), rng.normal(size=(3, 4))
    slopes = [np.empty(3000), np.empty(3000)]
    ours = evaluate(design.on_device(device), targets, weight, bias, slopes[0])
    theirs = evaluate(design, targets, weight, bias, slopes[1])
    np.testing.assert_allclose(ours.loss_L, theirs.loss_L, rtol=1e-6)
    np.testing.assert_allclose(ours.grad_LKD, theirs.grad_LKD, atol=2e-6)
    np.testing.assert_allclose(ours.grad_LK, theirs.grad_LK, atol=2e-6)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-9)


def test_labels_of_their_own_on_a_device(problem, device):
    design, _ = problem
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (3000, 5)).astype(np.float32)
    targets = Targets(labels, np.full(3000, 1 / 3000), 1)
    weight, bias = rng.normal(size=(5, 1, 30)).astype(np.float32), rng.normal(size=(5, 1))
    ours, theirs = (evaluate(some, targets, weight, bias) for some in (design.on_device(device), design))
    np.testing.assert_allclose(ours.loss_L, theirs.loss_L, rtol=1e-6)
    np.testing.assert_allclose(ours.grad_LKD, theirs.grad_LKD, atol=2e-6)


def test_solutions_are_the_same(problem, device):
    design, targets = problem
    strengths = [1e-2, 1e-3]
    ours = list(solve_path(design.on_device(device), targets, strengths))
    theirs = list(solve_path(design, targets, strengths))
    for left, right in zip(ours, theirs, strict=True):
        assert left.is_certified
        assert left.objective == pytest.approx(right.objective, rel=2e-4)
