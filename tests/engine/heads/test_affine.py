"""Links, the place of absent classes, and what is refused on loading."""

import numpy as np
import pytest

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.affine import Affine, Link, apply_link, embed_classes, make_affine


def test_links_do_not_overflow_and_keep_small_probabilities():
    logits = np.array([[1e4, -1e4, 0.0], [-80.0, -81.0, 0.0], [-1e4, -1e4, -1e4]], np.float32)
    softmax = apply_link(logits.copy(), Link.SOFTMAX)
    np.testing.assert_allclose(softmax.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(softmax[2], 1 / 3, rtol=1e-6)
    sigmoid = apply_link(logits.copy(), Link.SIGMOID)
    np.testing.assert_array_equal(sigmoid[0], np.float32([1.0, 0.0, 0.5]))
    np.testing.assert_allclose(sigmoid[1, :2], np.exp([-80.0, -81.0]), rtol=1e-5)  # no false tie at 0
    assert apply_link(logits.copy(), Link.IDENTITY).tolist() == logits.tolist()


@pytest.mark.parametrize(
    ("target", "link"),
    [(Target.CLASS, "softmax"), (Target.MULTILABEL, "sigmoid"), (Target.REGRESSION, "identity")],
)
def test_the_link_follows_from_the_target(target, link):
    assert Link.of(target) == link


def test_an_absent_class_is_never_chosen_and_the_others_are_unchanged():
    rng = np.random.default_rng(0)
    weight_PD, bias_P = rng.normal(size=(3, 5)), rng.normal(size=3) - 50
    x_ND = rng.normal(size=(200, 5)).astype(np.float32) * 10
    layer = make_affine(*embed_classes(weight_PD, bias_P, np.array([0, 2, 4]), 6), Link.SOFTMAX)
    scores = layer.scores(x_ND)
    plain = apply_link((x_ND @ weight_PD.T + bias_P).astype(np.float32), Link.SOFTMAX)
    np.testing.assert_allclose(scores[:, [0, 2, 4]], plain, rtol=1e-3, atol=1e-6)
    assert scores[:, [1, 3, 5]].max() < 1e-12
    assert np.isfinite(layer.bias_K).all()


def test_weights_that_float32_cannot_hold_are_refused():
    with pytest.raises(HeadError, match="not finite"):
        make_affine(np.array([[1e300]]), np.zeros(1), Link.IDENTITY)


def test_loading_checks_shapes_types_and_link():
    good = Affine(np.ones((3, 2), np.float32), np.ones(3, np.float32), Link.SOFTMAX)
    load = {"target": Target.CLASS, "outputs": 3, "dim": 2}
    again = Affine.load(good.record(), good.tensors(), **load)
    np.testing.assert_array_equal(again.weight_KD, good.weight_KD)
    with pytest.raises(HeadError, match=r"'weight' of shape \(3, 4\), found \(3, 2\)"):
        Affine.load(good.record(), good.tensors(), target=Target.CLASS, outputs=3, dim=4)
    with pytest.raises(HeadError, match="'bias'.*found none"):
        Affine.load(good.record(), {"weight": good.weight_KD}, **load)
    with pytest.raises(HeadError, match="finite"):
        Affine.load(good.record(), {**good.tensors(), "bias": np.full(3, np.nan, np.float32)}, **load)
    with pytest.raises(HeadError, match="link softmax for target class, found 'sigmoid'"):
        Affine.load({"link": "sigmoid"}, good.tensors(), **load)
