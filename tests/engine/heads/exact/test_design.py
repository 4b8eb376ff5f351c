"""Blocks of rows: the same numbers from memory, from a file, and from any type."""

import numpy as np
import pytest

from tle.heads.exact import design as design_module
from tle.heads.exact.design import Design


def _all(design):
    out = np.full((len(design), design.dim), np.nan, design.dtype)
    for positions, z_BD in design.blocks():
        out[positions] = z_BD
    return out


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [None, np.arange(3, 40), np.array([0, 1, 5, 6, 49]), np.zeros(0, np.int64)])
def test_rows_are_standardised_as_by_hand(stored, dtype, rows, monkeypatch):
    monkeypatch.setattr("tle.heads.exact.design._BLOCK_VALUES", 7 * 17)
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (50, 7)).astype(stored)
    mean_D, inverse_D = rng.normal(size=7), rng.uniform(0.5, 2, 7)
    design = Design(features, rows, mean_D, inverse_D, np.dtype(dtype))
    taken = features if rows is None else features[rows]
    want = (taken.astype(np.float64) - mean_D) * inverse_D
    np.testing.assert_allclose(_all(design), want, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    np.testing.assert_array_equal(_all(design.load()), _all(design))
    assert design.load().is_resident
    some = np.arange(len(design))[1::3]
    np.testing.assert_array_equal(design.take(some), _all(design)[some])


def test_what_is_there_already_is_not_copied():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    design = Design(features, None, None, None, np.dtype(np.float32))
    assert design.load() is design
    _, first = next(design.blocks())
    assert np.shares_memory(first, features)


def test_blocks_never_write_to_the_features(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float16)
    np.save(tmp_path / "f.npy", features)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    design = Design(mapped, None, np.ones(4), np.full(4, 2.0), np.dtype(np.float32))
    np.testing.assert_allclose(_all(design), (features.astype(np.float32) - 1) * 2, rtol=1e-6)
    own = features.copy()
    _all(Design(own, None, np.ones(4), None, np.dtype(np.float32)))
    np.testing.assert_array_equal(own, features)


@pytest.mark.parametrize("limit", [0, 2**26], ids=["torch", "numpy"])
def test_float16_rows_are_converted_exactly_whoever_does_it(monkeypatch, limit):
    monkeypatch.setattr(design_module, "_TORCH_FROM", limit)
    features = np.random.default_rng(0).standard_normal((3000, 700)).astype(np.float16)
    features.setflags(write=False)
    found = Design(features, None, None, None, np.dtype(np.float32)).load().features
    np.testing.assert_array_equal(found, features.astype(np.float32))


def test_blocks_are_shorter_where_much_is_made_of_a_row(monkeypatch):
    monkeypatch.setattr(design_module, "_BLOCK_VALUES", 400)
    monkeypatch.setattr(design_module, "_MADE_VALUES", 1000)
    features = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float16)
    streamed = Design(features, None, None, None, np.dtype(np.float32))
    for design in (streamed, streamed.load()):
        assert [len(z_BD) for _, z_BD in design.blocks()] == [100, 100, 100]
        assert {len(z_BD) for _, z_BD in design.blocks(20)} == {50}
        assert {len(z_BD) for _, z_BD in design.blocks(1000)} == {16, 300 % 16}
