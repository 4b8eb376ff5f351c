"""Rows of length 1, as arrays and as a view that a fit reads through."""

import numpy as np
import pytest

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.affine import Affine, Link
from tle.heads.unit_rows import UnitRows, normalise_rows


def test_rows_have_length_one_whatever_their_size_and_zeros_stay_zeros():
    x_ND = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    x_ND[1] *= np.float32(1e25)
    x_ND[2] *= np.float32(1e-25)
    x_ND[3] = 0
    before = x_ND.copy()
    z_ND = normalise_rows(x_ND)
    assert z_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z_ND.astype(np.float64), axis=1), [1, 1, 1, 0, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(x_ND, before)


@pytest.mark.parametrize("rows", [slice(1, 4), np.array([0, 3]), np.zeros(0, np.int64)])
def test_a_view_gives_what_the_rows_give(rows):
    x_ND = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
    view = UnitRows(x_ND)
    assert (len(view), view.shape, view.dtype) == (6, (6, 5), np.float32)
    np.testing.assert_array_equal(view[rows], normalise_rows(x_ND[rows].astype(np.float32)))


def test_a_layer_that_normalises_is_stored_as_such():
    rng = np.random.default_rng(0)
    layer = Affine(rng.normal(size=(3, 4)).astype(np.float32), np.zeros(3, np.float32), Link.SOFTMAX, True)
    again = Affine.load(layer.record(), layer.tensors(), target=Target.CLASS, outputs=3, dim=4)
    assert again.unit_rows
    x_ND = rng.normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(again.scores(7 * x_ND), layer.scores(x_ND), rtol=1e-5)
    assert "unit_rows" not in Affine(layer.weight_KD, layer.bias_K, Link.SOFTMAX).record()
    with pytest.raises(HeadError, match="expected unit_rows to be true or false, found 1"):
        Affine.load({**layer.record(), "unit_rows": 1}, layer.tensors(), target=Target.CLASS, outputs=3, dim=4)
