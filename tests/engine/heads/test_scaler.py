"""The scaler equals scikit-learn's, block by block, and folds into a layer exactly."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from tle.heads.samples import Samples
from tle.heads.scaler import fit_scaler


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_scikit_learn_whatever_the_blocks(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    x_ND = (rng.normal(size=(101, 7)) * 10.0 ** np.linspace(-1.4, 1.4, 7) + 5).astype(dtype)
    x_ND[:, 2] = 0.1  # constant, and not exactly representable
    rows = np.arange(0, 101, 2)
    want = StandardScaler().fit(x_ND[rows].astype(np.float64))
    monkeypatch.setattr("tle.heads.samples._BLOCK_VALUES", 70)
    samples = Samples(x_ND, rows, rows)
    scaler = fit_scaler(samples)
    np.testing.assert_allclose(scaler.mean_D, want.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_D, want.scale_, rtol=1e-9)
    assert scaler.scale_D[2] == 1.0
    np.testing.assert_allclose(scaler.load(samples), want.transform(x_ND[rows].astype(np.float64)), atol=1e-9)


def test_folding():
    rng = np.random.default_rng(0)
    x_ND = (rng.normal(size=(50, 6)) * 3 + 100).astype(np.float32)
    scaler = fit_scaler(Samples(x_ND, np.arange(50), np.zeros(50)))
    weight_KD, bias_K = rng.normal(size=(4, 6)), rng.normal(size=4)
    folded_KD, shift_K = scaler.fold(weight_KD, bias_K)
    np.testing.assert_allclose(
        x_ND @ folded_KD.T + shift_K, scaler.apply(x_ND) @ weight_KD.T + bias_K, rtol=1e-9, atol=1e-9
    )


def test_features_that_are_all_but_dead_are_floored_and_said():
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(200, 5)).astype(np.float32)
    x_ND[:, 3] = 0.0
    x_ND[17, 3] = 1e-4  # once, and hardly
    x_ND[:, 4] = 7.0
    scaler = fit_scaler(Samples(x_ND, np.arange(200), np.zeros(200)))
    plain = StandardScaler().fit(x_ND.astype(np.float64)).scale_
    np.testing.assert_allclose(scaler.scale_D[[0, 1, 2, 4]], plain[[0, 1, 2, 4]], rtol=1e-9)
    assert plain[3] < 1e-5
    assert scaler.scale_D[3] == pytest.approx(1e-3 * np.median(plain[:4]))
    assert scaler.notes[0].startswith("1 of 5 features hardly vary")


def test_constant_features_alone_need_no_floor():
    scaler = fit_scaler(Samples(np.full((9, 3), 2.0, np.float32), np.arange(9), np.zeros(9)))
    assert scaler.scale_D.tolist() == [1.0, 1.0, 1.0]
    assert scaler.notes == ()
