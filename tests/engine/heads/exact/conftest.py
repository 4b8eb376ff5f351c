"""Problems of the exact solver and their optimum by another road."""

import numpy as np
import pytest
from scipy.optimize import minimize

from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets


def plain_value(x_ND, labels_N, share_N, weight_KD, bias_K, strength):
    """The objective as it is written down, for a softmax."""
    logits = x_ND @ weight_KD.T + bias_K
    d = logits - logits[np.arange(len(labels_N)), labels_N][:, None]
    return share_N @ np.logaddexp.reduce(d, axis=1) + strength / 2 * np.square(weight_KD).sum()


@pytest.fixture
def value_of():
    return plain_value


@pytest.fixture
def best_value():
    """best_value(x, labels, share, classes, strength): the least objective, by a long run of scipy's Newton-CG."""

    def find(x_ND, labels_N, share_N, classes, strength, *, intercept=True):
        n, dim = x_ND.shape
        t_NE = np.concatenate([x_ND, np.full((n, 1), float(intercept))], axis=1)
        one_hot = np.eye(classes)[labels_N]
        penalty_E = np.append(np.full(dim, strength), 0.0)

        def split(flat):
            at = flat.reshape(classes, dim + 1)
            logits = t_NE @ at.T
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            return at, p / p.sum(axis=1, keepdims=True)

        def value(flat):
            at, p = split(flat)
            grad = (share_N[:, None] * (p - one_hot)).T @ t_NE + penalty_E * at
            grad[:, dim] *= intercept
            return plain_value(x_ND, labels_N, share_N, at[:, :dim], at[:, dim] * intercept, strength), grad.ravel()

        def product(flat, direction):
            _, p = split(flat)
            u = t_NE @ direction.reshape(classes, dim + 1).T
            r = share_N[:, None] * p * (u - (p * u).sum(axis=1, keepdims=True))
            out = r.T @ t_NE + penalty_E * direction.reshape(classes, dim + 1)
            out[:, dim] *= intercept
            return out.ravel()

        found = minimize(value, np.zeros(classes * (dim + 1)), jac=True, hessp=product, method="trust-ncg",
                         options={"gtol": 1e-12, "maxiter": 2000})  # fmt: skip
        return float(found.fun)

    return find


@pytest.fixture
def make_rows():
    """make_rows(n, dim, classes): float64 features with signal, labels in which every class occurs, equal weights."""

    def make(n, dim, classes, seed=0, spread=1.0):
        rng = np.random.default_rng(seed)
        labels_N = np.arange(n) % classes
        x_ND = spread * rng.normal(size=(n, dim)) + rng.normal(size=(classes, dim))[labels_N]
        return x_ND, labels_N, np.full(n, 1.0 / n)

    return make


@pytest.fixture
def as_design():
    """as_design(x): rows in memory, in their own type."""
    return lambda x_ND: Design(x_ND, None, None, None, x_ND.dtype)


@pytest.fixture
def as_targets():
    return lambda labels_N, share_N: Targets(labels_N, share_N, int(labels_N.max()) + 1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The torch devices that tensors are put on."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param
