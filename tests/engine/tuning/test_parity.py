import json

import numpy as np
import pytest

from tle.tuning.parity import compare_features


def at_degrees(*angles):
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def test_two_pictures_by_hand():
    parity = compare_features(np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 1], [0, 2]]))
    assert parity.n == 2
    assert parity.min_cosine == pytest.approx(1 / np.sqrt(2))
    assert parity.mean_cosine == pytest.approx((1 + 1 / np.sqrt(2)) / 2)
    # Less the mean (1/2, 1/2): (1/2, -1/2) against (1/2, 1/2), and (-1/2, 1/2) against (-1/2, 3/2).
    assert parity.centred_min_cosine == pytest.approx(0, abs=1e-12)
    assert parity.neighbour_agreement is None


def test_three_pictures_have_neighbours():
    parity = compare_features(at_degrees(0, 10, 90), at_degrees(0, 80, 90))
    assert parity.neighbour_agreement == pytest.approx(2 / 3)  # the second went over to the third
    assert parity.min_cosine == pytest.approx(np.cos(np.radians(70)))
    assert compare_features(at_degrees(0, 10, 90), at_degrees(0, 10, 90)).neighbour_agreement == 1


@pytest.mark.parametrize("n", [1, 2, 3, 32])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_same_features_are_the_same(n, dtype):
    features = np.random.default_rng(n).normal(size=(n, 7)).astype(dtype)
    parity = compare_features(features, features.copy())
    assert parity.min_cosine == parity.mean_cosine == parity.centred_min_cosine == 1  # not less a rounding
    assert parity.neighbour_agreement == (1 if n > 2 else None)
    assert parity.n == n


def test_length_does_not_count_but_direction_does():
    features = np.random.default_rng(0).normal(size=(5, 9))
    assert compare_features(features, 3 * features).min_cosine == pytest.approx(1)
    assert compare_features(features, -features).min_cosine == pytest.approx(-1)


def test_a_common_part_flatters_the_plain_cosine_alone():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 20, 8))
    parity = compare_features(a + 100, b + 100)
    assert parity.min_cosine > 0.999
    assert parity.centred_min_cosine < 0.5


def test_two_zero_vectors_agree_and_one_does_not():
    zeros, ones = np.zeros((1, 3)), np.ones((1, 3))
    assert compare_features(zeros, zeros).min_cosine == 1
    assert compare_features(zeros, ones).min_cosine == 0
    assert compare_features(ones, zeros).min_cosine == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 4])
def test_a_row_that_is_not_finite_is_as_far_as_can_be(value, n):
    reference = np.random.default_rng(2).normal(size=(n, 3)).astype(np.float32)
    features = reference.copy()
    features[0, 1] = value
    parity = compare_features(reference, features)
    assert parity.min_cosine == parity.centred_min_cosine == -1
    assert np.isnan(features[0, 1]) or np.isinf(features[0, 1])  # the caller's arrays stay as they are


def test_a_picture_that_fails_either_way_is_no_difference():
    reference = np.random.default_rng(3).normal(size=(4, 3))
    reference[2] = np.nan
    parity = compare_features(reference, reference.copy())
    assert parity.min_cosine == pytest.approx(1)
    assert parity.centred_min_cosine == pytest.approx(1)
    assert compare_features(reference, np.nan_to_num(reference)).min_cosine == -1
    json.dumps(parity.to_dict(), allow_nan=False)


def test_it_reads_as_one_line():
    text = str(compare_features(at_degrees(0, 10, 90), at_degrees(0, 80, 90)))
    assert text == (
        "cosine to the float32 reference on 3 pictures: least 0.342020, mean 0.780673, centred least "
        f"{compare_features(at_degrees(0, 10, 90), at_degrees(0, 80, 90)).centred_min_cosine:.4f}, same neighbour 67%"
    )
    assert "neighbour" not in str(compare_features(at_degrees(0, 10), at_degrees(0, 10)))
