"""Curvature: with all rows and directions the inverse is that of the true Hessian, and nothing is ever indefinite."""

import numpy as np
import pytest
import torch

from tle.heads.exact.bound import bound
from tle.heads.exact.objective import predict_rows
from tle.heads.exact.preconditioner import two_level


def _hessian(z_ND, share_N, p_NK, strength, *, intercept):
    """The dense Hessian of the objective, unknowns ordered by class, the intercept last in each."""
    t_NE = np.concatenate([z_ND, np.ones((len(z_ND), 1))], axis=1) if intercept else z_ND
    outputs, width = p_NK.shape[1], t_NE.shape[1]
    total = np.zeros((outputs * width, outputs * width))
    for t_E, v, p_K in zip(t_NE, share_N, p_NK, strict=True):
        s = np.array([[p_K[0] * (1 - p_K[0])]]) if outputs == 1 else np.diag(p_K) - np.outer(p_K, p_K)
        total += v * np.kron(s, np.outer(t_E, t_E))
    penalty = np.full((outputs, width), strength)
    if intercept:
        penalty[:, -1] = 0
    return total + np.diag(penalty.ravel())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_two_levels_invert_the_hessian_where_everything_is_dense(outputs, intercept):
    rng = np.random.default_rng(0)
    z_ND, share_N = rng.normal(1, 1, (70, 5)), np.full(70, 1 / 70)
    p_NK = predict_rows(z_ND, rng.normal(size=(outputs, 5)), rng.normal(size=outputs))
    found = two_level(z_ND, share_N, p_NK, 100, intercept=intercept)
    grad_KD, grad_K = rng.normal(size=(outputs, 5)), rng.normal(size=outputs) * intercept
    if outputs > 1:  # a softmax's gradient sums to 0 over the classes
        grad_KD, grad_K = grad_KD - grad_KD.mean(axis=0), grad_K - grad_K.mean()
    step, bias = found.apply(grad_KD[None], grad_K[None], np.array([0.05]))
    hessian = _hessian(z_ND, share_N, p_NK, 0.05, intercept=intercept)
    right = np.concatenate([grad_KD, grad_K[:, None]], axis=1) if intercept else grad_KD
    want = np.linalg.lstsq(hessian, right.ravel(), rcond=1e-10)[0].reshape(right.shape)
    got = np.concatenate([step[0], bias[0][:, None]], axis=1) if intercept else step[0]
    if outputs > 1 and intercept:  # intercepts count up to a constant
        got[:, -1] -= got[:, -1].mean()
        want[:, -1] -= want[:, -1].mean()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_the_more_unknowns_the_nearer_to_the_inverse():
    rng = np.random.default_rng(0)
    z_ND, share_N = rng.normal(size=(400, 12)) * np.linspace(3, 0.3, 12), np.full(400, 1 / 400)
    p_NK = predict_rows(z_ND, rng.normal(size=(4, 12)), np.zeros(4))
    grad_KD = rng.normal(size=(4, 12))
    grad_KD -= grad_KD.mean(axis=0)
    want = np.linalg.solve(_hessian(z_ND, share_N, p_NK, 1e-3, intercept=False), grad_KD.ravel()).reshape(4, 12)
    misses = []
    for unknowns, directions in ((0, 0), (16, 3), (35, 7), (52, 12)):
        made = two_level(z_ND, share_N, p_NK, unknowns, intercept=False)
        assert made.directions == directions
        step = made.apply(grad_KD[None], np.zeros((1, 4)), np.array([1e-3]))[0][0]
        misses.append(np.linalg.norm(step - want) / np.linalg.norm(want))
    assert misses == sorted(misses, reverse=True)
    assert misses[0] > 0.1 > 1e-8 > misses[-1]


@pytest.mark.parametrize("make", ["bound", "two_level"])
def test_only_the_last_factors_are_kept(make):
    z_ND, share_N = np.random.default_rng(0).normal(size=(50, 4)), np.full(50, 1 / 50)
    made = (
        bound(z_ND, share_N, 3, intercept=True)
        if make == "bound"
        else two_level(z_ND, share_N, np.full((50, 3), 1 / 3), 100, intercept=True)
    )
    grad_KD = np.array([[1.0] * 4, [-1.0] * 4, [0.0] * 4])
    first, *_, again = (made.apply(grad_KD[None], np.zeros((1, 3)), np.array([v]))[0] for v in [*range(1, 20), 1.0])
    assert len(made.factors) <= 4
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("outputs", "unknowns"), [(1, 5), (3, 0), (3, 12), (3, 100)])
def test_curvature_of_tensors_is_that_of_arrays(device, outputs, unknowns, intercept):
    rng = np.random.default_rng(0)
    z_ND, share_N = rng.normal(1, 1, (60, 5)), rng.dirichlet(np.ones(60))
    p_NK = predict_rows(z_ND, rng.normal(size=(outputs, 5)), rng.normal(size=outputs))
    there_ND, there_NK = (torch.from_numpy(array).to(device) for array in (z_ND, p_NK))
    grad, grad_b, strengths = rng.normal(size=(3, outputs, 5)), rng.normal(size=(3, outputs)), np.array([0.1, 2.0, 0.1])
    for one, other in (
        [bound(rows, share_N, outputs, intercept=intercept) for rows in (z_ND, there_ND)],
        [
            two_level(rows, share_N, p, unknowns, intercept=intercept)
            for rows, p in ((z_ND, p_NK), (there_ND, there_NK))
        ],
    ):
        assert other.centre_D.device.type == device
        for dtype in (np.float32, np.float64):
            given = grad.astype(dtype), grad_b.astype(dtype), strengths
            for left, right in zip(one.apply(*given), other.apply(*given), strict=True):
                assert left.dtype == right.dtype
                np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_the_bound_is_above_every_hessian(outputs):
    """A step by the inverse of an upper bound never overshoots: g^T B^-1 g <= g^T H^-1 g."""
    rng = np.random.default_rng(0)
    z_ND, share_N = rng.normal(size=(60, 4)), np.full(60, 1 / 60)
    upper = bound(z_ND, share_N, outputs, intercept=False)
    for size in (0.0, 1.0, 5.0):
        p_NK = predict_rows(z_ND, size * rng.normal(size=(outputs, 4)), np.zeros(outputs))
        hessian = _hessian(z_ND, share_N, p_NK, 0.1, intercept=False)
        grad_KD = rng.normal(size=(outputs, 4))
        if outputs > 1:
            grad_KD -= grad_KD.mean(axis=0)
        step, _ = upper.apply(grad_KD[None], np.zeros((1, outputs)), np.array([0.1]))
        assert (step[0] * grad_KD).sum() <= grad_KD.ravel() @ np.linalg.solve(hessian, grad_KD.ravel()) * (1 + 1e-9)


@pytest.mark.parametrize("make", ["bound", "two_level"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_go_down_for_any_rows(make, dtype):
    rng = np.random.default_rng(0)
    for scale in (np.ones(6), np.array([1e-6, 1e-3, 1, 1, 1e3, 1e6]), np.array([0, 0, 0, 1, 1, 1])):
        z_ND = (rng.normal(size=(30, 6)) * scale).astype(dtype)
        z_ND[10:] = z_ND[:20]
        share_N, p_NK = np.full(30, 1 / 30), np.full((30, 3), 1 / 3)
        made = (
            bound(z_ND, share_N, 3, intercept=True)
            if make == "bound"
            else two_level(z_ND, share_N, p_NK, 100, intercept=True)
        )
        grad_KD, grad_K = rng.normal(size=(1, 3, 6)).astype(dtype), rng.normal(size=(1, 3))
        grad_KD, grad_K = grad_KD - grad_KD.mean(axis=1, keepdims=True), grad_K - grad_K.mean()
        for strength in (1e-6, 1.0, 1e4):
            step, bias = made.apply(grad_KD, grad_K, np.array([strength]))
            assert np.isfinite(step).all()
            assert (step * grad_KD).sum() + (bias * grad_K).sum() > 0
