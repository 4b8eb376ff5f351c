"""One linear layer and a link function: what logistic, linear and ridge heads are once they are fitted.

# B rows of a block, D feature dim, K outputs (C classes, or 1 for regression), P classes present in the fit

    scores_BK = link(x_BD @ weight_KD.T + bias_K)      link: softmax | sigmoid | identity

Where rows were brought to length 1 for the fit, x_BD / |x_BD| stands for x_BD: that is no part of a linear layer, so the
layer says so, and whatever uses its weights without it (an export, say) has to do it first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.unit_rows import normalise_rows

# A class without a training picture gets no weights and this logit. Present classes are centred, so the largest of their
# logits is at least 0 and the absent class stays below exp(-30) = 1e-13: never chosen, and yet finite, so that the layer
# can be exported, and fine-tuned once pictures of the class turn up.
ABSENT_LOGIT = -30.0


class Link(StrEnum):
    """What turns logits into scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"

    @classmethod
    def of(cls, target: Target) -> "Link":
        """The link that belongs to a target."""
        return {Target.CLASS: cls.SOFTMAX, Target.MULTILABEL: cls.SIGMOID}.get(target, cls.IDENTITY)


def apply_link(logits_BK: NDArray[np.float32], link: Link) -> NDArray[np.float32]:
    """Scores of logits, float32 (B, K); the argument may be overwritten. Neither link can overflow."""
    if link is Link.SOFTMAX:
        logits_BK -= logits_BK.max(axis=1, keepdims=True)
        np.exp(logits_BK, out=logits_BK)
        logits_BK /= logits_BK.sum(axis=1, keepdims=True)
    elif link is Link.SIGMOID:
        # With e = exp(-|z|): sigmoid(z) = 1 / (1 + e) for z >= 0, else e / (1 + e). Small probabilities keep their
        # precision, so that no ranking by them (average precision) meets false ties.
        tail_BK = np.exp(-np.abs(logits_BK))
        numerator_BK = np.where(logits_BK >= 0, np.float32(1), tail_BK)
        return np.divide(numerator_BK, np.float32(1) + tail_BK, out=logits_BK)
    return logits_BK


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear layer on raw features (the scaler is folded in) and its link.

    Attributes:
        weight_KD: float32 (K, D).
        bias_K: float32 (K,).
        link: what turns logits into scores.
        unit_rows: whether rows are brought to length 1 before the layer.
    """

    weight_KD: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    link: Link
    unit_rows: bool = False

    def logits(self, x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (B, K), before the link."""
        logits_BK = (normalise_rows(x_BD) if self.unit_rows else x_BD) @ self.weight_KD.T
        logits_BK += self.bias_K
        return logits_BK

    def scores(self, x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (B, K), after the link."""
        return apply_link(self.logits(x_BD), self.link)

    def record(self) -> dict[str, Any]:
        """What `load` needs beside the tensors."""
        return {"type": "affine", "link": str(self.link), **({"unit_rows": True} if self.unit_rows else {})}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored."""
        return {"weight": self.weight_KD, "bias": self.bias_K}

    def files(self) -> dict[str, bytes]:
        """Further files to be stored: none."""
        return {}

    @classmethod
    def load(
        cls, record: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, target: Target, outputs: int, dim: int
    ) -> Self:
        """Read back what `record` and `tensors` wrote.

        Raises:
            HeadError: a tensor is missing or has another shape or type, the link is not that of the target, or it is not
                said whether rows have length 1.
        """
        weight_KD, bias_K = tensors.get("weight"), tensors.get("bias")
        for name, array, shape in (("weight", weight_KD, (outputs, dim)), ("bias", bias_K, (outputs,))):
            if array is None or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                found = "none" if array is None else f"{array.shape} {array.dtype}"
                raise HeadError(f"expected a finite float32 tensor {name!r} of shape {shape}, found {found}")
        if record.get("link") != (link := Link.of(target)):
            raise HeadError(f"expected the link {link} for target {target}, found {record.get('link')!r}")
        if not isinstance(normalise := record.get("unit_rows", False), bool):
            raise HeadError(f"expected unit_rows to be true or false, found {normalise!r}")
        assert weight_KD is not None  # noqa: S101 - shown above; for the type checker
        assert bias_K is not None  # noqa: S101
        return cls(weight_KD, bias_K, link, normalise)


def make_affine(
    weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64], link: Link, *, unit_rows: bool = False
) -> Affine:
    """Round a float64 layer to the stored float32; `unit_rows` as in `Affine`.

    Raises:
        HeadError: a value is not finite, in float64 or once rounded.
    """
    with np.errstate(over="ignore"):  # an overflow of the cast is found, and said, just below
        layer = Affine(weight_KD.astype(np.float32), bias_K.astype(np.float32), link, unit_rows)
    if not (np.isfinite(layer.weight_KD).all() and np.isfinite(layer.bias_K).all()):
        raise HeadError("the fit gave weights that are not finite: the features may span too many orders of magnitude")
    return layer


def embed_classes(
    weight_PD: NDArray[np.float64], bias_P: NDArray[np.float64], present_P: NDArray[np.int64], n_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give every class its row, those absent from the fit too.

    Args:
        weight_PD: float64 (P, D), rows of the classes that were present.
        bias_P: float64 (P,).
        present_P: int64 (P,), their class indices.
        n_classes: C.

    Returns:
        Float64 (C, D) and (C,). Present rows are centred over the classes, which no softmax sees; absent ones get zero
        weights and `ABSENT_LOGIT`.
    """
    weight_CD = np.zeros((n_classes, weight_PD.shape[1]))
    bias_C = np.full(n_classes, ABSENT_LOGIT)
    weight_CD[present_P] = weight_PD - weight_PD.mean(axis=0)
    bias_C[present_P] = bias_P - bias_P.mean()
    return weight_CD, bias_C
