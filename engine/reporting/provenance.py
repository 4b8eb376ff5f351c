"""Where a classifier comes from: enough to make it again, or to see why another gives other figures."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tle.reporting.numbers import plain
from tle.reporting.page import Section, definitions
from tle.reporting.subject import Subject


def provenance(subject: Subject) -> Section:
    """Backbone, weights, preprocessing, decoder, settings and versions."""
    head, training = subject.bundle.head, subject.training
    spec = head.spec
    backbone: Mapping[str, Any] = spec.get("backbone", {})
    rows: list[tuple[str, object]] = [
        ("Backbone", backbone.get("name", "")),
        ("Weights", backbone.get("weights", "")),
        ("Digest of the weights", backbone.get("weights_digest", "")),
    ]
    if base := subject.bundle.base:
        rows.append(("Fine-tuned from", f"{base.get('name')}, weights {base.get('weights')}"))
        rows.append(("Digest before", base.get("weights_digest", "")))
    layer, pool = backbone.get("layer"), backbone.get("pool")
    rows += [
        ("Features", f"{head.dim:,} numbers a picture, layer {layer}, pooling {pool}"),
        ("Preprocessing", plain(spec.get("preprocess"))),
        ("Decoder", spec.get("decoder", "")),
        ("Precision of the fit", spec.get("precision", "")),
        ("Run here", subject.execution),
        ("Head", f"{head.kind}, target {head.target}, fitted on {len(head.fit_digests):,} different pictures"),
    ]
    if chosen := head.fit.get("chosen"):
        rows.append(("Settings of the head", plain(chosen)))
    if start := training.get("start"):
        rows.append(("Start of the training", plain({key: value for key, value in start.items() if value is not None})))
    if options := training.get("options"):
        given = {key: value for key, value in options.items() if value not in (None, [], ())}
        rows.append(("Options of the training", plain(given)))
    rows.append(("Fingerprint of the features", head.fingerprint))
    if subject.remarks:
        rows.append(("Remarks", "; ".join(subject.remarks)))
    if versions := head.fit.get("versions"):
        rows.append(("Versions at the fit", plain(versions)))
    here = {"tle": version("tle"), "python": platform.python_version(), "torch": version("torch")}
    rows.append(("Versions here", plain({**here, "numpy": version("numpy")})))
    lead = "Two classifiers compare only if these agree: other weights, another crop or decoder give other features."
    return Section("provenance", "Provenance", lead, definitions(rows))
