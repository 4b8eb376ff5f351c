"""A certificate whose logits are too many to be kept says the same."""

import numpy as np
import pytest

from tle.heads.exact import certificate
from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets
from tle.heads.exact.path import solve_path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_that_are_not_kept_change_nothing(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2500)
    z_ND = (rng.normal(size=(5, 20))[labels] + rng.normal(size=(2500, 20)) + 3.0).astype(dtype)
    design = Design(z_ND, None, None, None, np.dtype(dtype))
    targets = Targets(labels, np.full(2500, 1 / 2500), 5)
    kept = list(solve_path(design, targets, [1e-1, 1e-3]))
    monkeypatch.setattr(certificate, "_KEPT_LOGITS", 0)
    streamed = list(solve_path(design, targets, [1e-1, 1e-3]))
    for left, right in zip(kept, streamed, strict=True):
        assert right.is_certified
        assert right.objective == pytest.approx(left.objective, rel=1e-12)
        # Intercepts are centred in the type of the rows.
        single = dtype == "float32"
        assert right.gap == pytest.approx(left.gap, rel=0.1 if single else 1e-3, abs=1e-7 if single else 1e-9)
