"""What makes two sets of features the same."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tle.cache import Cache, fingerprint
from tle.errors import FingerprintError
from tle.execution import AUTO, Execution
from tle.images import EXACT_DECODER

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.views import View

# Where the weights of a fine-tuned backbone come from: not from a name or a file, but from the classifier itself.
FINETUNED = "fine-tuned"


def feature_spec(backbone: "Backbone", *, decoder: str, precision: str, view: "View | None" = None) -> dict[str, Any]:
    """What defines the features of `backbone`: the JSON-able object behind a cache's fingerprint.

    Args:
        backbone: network, weights, layer, pooling and preprocessing.
        decoder: identity of the decoder.
        precision: what the features were computed in. It is recorded and no part of the fingerprint: features that passed
            the same comparison with float32 may meet, and `tle evaluate` says so where they do.
        view: of the pictures; None is the one that is evaluated.
    """
    spec = {
        "backbone": backbone.spec(),
        "preprocess": backbone.preprocess.to_dict(),
        "decoder": decoder,
        "precision": precision,
    }
    return spec if view is None else spec | {"view": view.to_dict()}


def plain_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the same features without a random view."""
    return {key: value for key, value in spec.items() if key != "view"}


def finetuned_spec(base_spec: Mapping[str, Any], weights_digest: str, *, precision: str = "float32") -> dict[str, Any]:
    """What defines the features of a backbone that was fine-tuned; `tle.cache.fingerprint` makes its identity of it.

    Args:
        base_spec: what `feature_spec` said before the fine-tuning, as a cache or a head has it.
        weights_digest: `tle.backbones.backbone.digest_state` of the module's state dict now, with `Backbone.code`.
        precision: what the features were computed in when the head was trained on them.

    Returns:
        The same architecture, layer, pooling, preprocessing and decoder, with other weights.
    """
    backbone = {**base_spec["backbone"], "weights": FINETUNED, "weights_digest": weights_digest}
    return {**base_spec, "backbone": backbone, "precision": precision}


def spec_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What two specs differ in, as `key: a instead of b`, for an error message."""
    differing = []
    for section, prefix in (("backbone", ""), ("preprocess", ""), ("view", "view ")):
        a, b = ours.get(section, {}), theirs.get(section, {})
        if section == "view" and bool(a) != bool(b):
            differing.append(f"view: {'one' if a else 'none'} instead of {'one' if b else 'none'}")
            continue
        differing += [
            f"{prefix}{key}: {a.get(key)} instead of {b.get(key)}"
            for key in sorted({*a, *b})
            if a.get(key) != b.get(key)
        ]
    for key in ("decoder", "precision"):
        if ours.get(key) != theirs.get(key):
            differing.append(f"{key}: {ours.get(key)} instead of {theirs.get(key)}")
    return "; ".join(differing)


def as_before(cache: Cache, execution: Execution) -> tuple[str, str]:
    """Decoder and precision that go with the rows of a cache, where the user leaves them open.

    Returns:
        The decoder: the cache's if that is the exact one, which is as good as any, else the one asked for; and the
        precision: the cache's, or the one asked for.
    """
    exact = cache.spec.get("decoder") == EXACT_DECODER
    precision = str(cache.spec.get("precision")) if execution.precision == AUTO else execution.precision
    return EXACT_DECODER if exact else execution.decoder, precision


def check_same_kind(cache: Cache, asked: Mapping[str, Any], dtype: str, execution: Execution) -> None:
    """Refuse to mix features of two kinds in one cache.

    Args:
        cache: what is there, finished or not.
        asked: spec of what is asked for; its decoder and precision are those of `execution`.
        dtype: storage type that is asked for.
        execution: decoder, precision and nearness that are asked for.

    Raises:
        FingerprintError: they differ; the message says what in.
    """
    decoder, precision = as_before(cache, execution)
    spec = {**asked, "decoder": decoder, "precision": precision}
    same = cache.fingerprint == fingerprint(spec) and cache.spec.get("precision") == precision
    if not same or cache.features.dtype != dtype:
        what = spec_difference(spec, cache.spec) or f"dtype: {dtype} instead of {cache.features.dtype}"
        raise FingerprintError(
            f"{cache.path} holds features of another kind ({what}); name another output, or pass --overwrite to replace it"
        )
    near = (cache.run.get("parity") or {}).get("min_cosine", 1.0)
    if near < execution.min_cosine:
        raise FingerprintError(
            f"{cache.path} holds {cache.spec.get('precision')} features with a least cosine of {near:.6f} to float32, below "
            f"--min-cosine {execution.min_cosine:g}; name another output, or pass --overwrite to replace it"
        )
