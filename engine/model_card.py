"""`model_card.md`: what a classifier is, in words, out of what its file holds and nothing else.

Whatever comes from users (names of classes, paths, settings) is escaped: in Markdown it is text, and so in the HTML that
is made of it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tle.enums import Target
from tle.errors import UsageError
from tle.identity import FINETUNED
from tle.preprocess import Preprocess
from tle.sources.source import plural, printable

if TYPE_CHECKING:
    from tle.bundle import Bundle

_SHOWN_CLASSES = 50
_SHOWN_CHARACTERS = 200
_SPECIAL = re.compile(r"([\\`*_\[\]|#~!$])")
_OUTPUT = {
    Target.CLASS: "one probability a class, which add up to 1",
    Target.MULTILABEL: "one probability a label, each on its own",
    Target.REGRESSION: "one number",
}


def model_card(bundle: "Bundle") -> str:
    """Describe a classifier.

    Args:
        bundle: the classifier.

    Returns:
        Markdown; the same classifier gives the same text.
    """
    parts = [_title, _use, _classes, _data, _backbone, _training, _figures, _verdict, _running, _versions]
    return "\n".join(line for part in parts for line in (*part(bundle), ""))


def _title(bundle: "Bundle") -> Iterator[str]:
    head, recorded = bundle.head, _mapping(bundle.head.spec.get("backbone"))
    yield f"# Classifier on {_text(recorded.get('name', 'features of unknown origin'))}"
    yield ""
    made = "fine-tuned together with its head" if bundle.state is not None else "frozen, under a fitted head"
    yield f"A {_text(recorded.get('name', 'backbone'))} backbone, {made} ({_text(head.kind)})."
    yield f"A picture goes in; {_OUTPUT[head.target]} comes out."


def _use(bundle: "Bundle") -> Iterator[str]:
    yield "## Use and limits"
    yield ""
    images = bundle.data.get("images")
    like = f"the pictures of {_text(images)}" if images else "the pictures that it was fitted on"
    yield f"- Made for pictures like {like}. Nothing was measured on pictures of another origin."
    if bundle.head.target is Target.CLASS:
        yield (
            f"- Every picture gets one of the {len(bundle.head.classes):,} classes below, one of something else as well: a low "
            "probability is the only sign of that."
        )
    if bundle.data and not _mapping(bundle.data.get("counts")).get("test"):
        yield "- There were no test pictures: figures below are of pictures that settings were chosen by."
    rare = [name for name, count in _train_counts(bundle).items() if count < 10]
    if rare:
        yield f"- Fewer than 10 pictures to train on for {plural(len(rare), 'class')}: {_some(rare)}."


def _classes(bundle: "Bundle") -> Iterator[str]:
    head = bundle.head
    yield "## Classes" if head.target is not Target.MULTILABEL else "## Labels"
    yield ""
    yield f"{len(head.classes):,}: {_some(head.classes)}." if head.classes else "None: it gives a number."


def _data(bundle: "Bundle") -> Iterator[str]:
    yield "## Data"
    yield ""
    if bundle.data.get("images"):
        yield f"- Pictures: {_text(bundle.data['images'])} ({_text(bundle.data.get('kind', 'unknown kind'))})"
    counts = _mapping(bundle.data.get("counts"))
    if counts:
        yield "- Pictures a split: " + ", ".join(
            f"{_text(split)} {_text(count)}" for split, count in sorted(counts.items())
        )
    yield f"- Pictures that the fit knows by their digests: {len(bundle.head.fit_digests):,}"


def _backbone(bundle: "Bundle") -> Iterator[str]:
    spec, recorded = bundle.head.spec, _mapping(bundle.head.spec.get("backbone"))
    yield "## Backbone"
    yield ""
    yield f"- Network: {_text(recorded.get('name', 'unknown'))}"
    if bundle.base is not None:
        base = bundle.base
        yield "- Weights: in this file, fine-tuned"
        yield f"- Fine-tuned from: {_text(base.get('weights'))} (digest {_text(base.get('weights_digest'))})"
    elif recorded.get("weights") != FINETUNED:
        weights = recorded.get("weights", "unknown")
        loaded = "random ones are made" if weights == "none" else f"{_text(weights)} is loaded"
        yield f"- Weights: not in this file; {loaded} when it is used"
    yield f"- Digest of the weights: {_text(recorded.get('weights_digest', 'unknown'))}"
    layer, pool = recorded.get("layer", "unknown"), recorded.get("pool", "unknown")
    yield f"- Features: {bundle.head.dim:,} values, layer {_text(layer)}, pooling {_text(pool)}"
    yield f"- Preprocessing: {_text(_preprocessing(spec.get('preprocess')))}"
    yield f"- Decoder: {_text(spec.get('decoder', 'unknown'))}"


def _training(bundle: "Bundle") -> Iterator[str]:
    yield "## Training"
    yield ""
    if bundle.training is None:
        fit = bundle.head.fit
        yield "The backbone is as it was published; the head was fitted on cached features."
        if fit.get("chosen"):
            yield f"Its settings: {_text(_json(fit['chosen']))}."
        return
    training = bundle.training
    if bundle.state is None:
        yield "The backbone is as it was published: it was fine-tuned as below, and that was not kept."
        yield ""
    groups, history = training["groups"], training["history"]
    values = [group.get("n_parameters") for group in groups if not group.get("frozen")]
    trained = sum(value for value in values if isinstance(value, int))
    frozen = sum(bool(group.get("frozen")) for group in groups)
    yield f"- Parameter groups: {len(groups)}, {frozen} of them frozen; {trained:,} parameters trained"
    if history:
        last = history[-1]
        yield f"- Epochs: {_text(last.get('epoch', 'unknown'))}, steps: {_text(last.get('step', 'unknown'))}"
    start = _mapping(training.get("start"))
    if start.get("init"):
        yield f"- Started from the head {_text(start['init'])}"
    yield ""
    yield from _table(
        ("setting", "value"), [(name, _json(value)) for name, value in sorted(training["options"].items())]
    )


def _figures(bundle: "Bundle") -> Iterator[str]:
    yield "## Figures"
    yield ""
    metrics = dict(bundle.metrics)
    if not metrics and bundle.head.fit.get("val"):
        metrics = {"val": _mapping(bundle.head.fit["val"])}
    if not metrics:
        yield "None were measured; `tle evaluate` does."
        return
    rows = [
        (split, name, f"{value:.4f}", _interval(values.get(f"{name}_interval")))
        for split, values in sorted(metrics.items())
        for name, value in sorted(values.items())
        if isinstance(value, float)
    ]
    pictures = [f"{_text(split)} {_text(values['n'])}" for split, values in sorted(metrics.items()) if values.get("n")]
    yield from _table(("split", "figure", "value", "95 % interval"), rows)
    if pictures:
        yield ""
        yield f"Pictures measured: {', '.join(pictures)}."


def _verdict(bundle: "Bundle") -> Iterator[str]:
    verdict = _mapping((bundle.training or {}).get("verdict"))
    if not verdict:
        return
    yield "## Fine-tuned or frozen"
    yield ""
    yield from _table(("", "value"), [(name, _json(value)) for name, value in sorted(verdict.items())])


def _running(bundle: "Bundle") -> Iterator[str]:
    yield "## How to run it"
    yield ""
    yield "    tle predict CLASSIFIER.tle PICTURES -o predictions.csv"
    yield "    tle evaluate CLASSIFIER.tle LABELLED_PICTURES"
    yield "    tle export CLASSIFIER.tle -o CLASSIFIER.onnx"
    if bundle.state is None:
        yield ""
        yield "Where the backbone's weights are elsewhere now, `--weights` names them; their digest has to be the same."


def _versions(bundle: "Bundle") -> Iterator[str]:
    versions = _mapping(bundle.head.fit.get("versions"))
    if not versions:
        return
    yield "## Versions"
    yield ""
    yield ", ".join(f"{_text(name)} {_text(version)}" for name, version in sorted(versions.items()))


def _train_counts(bundle: "Bundle") -> dict[str, int]:
    """Pictures to train on by class, of classes for which it is known."""
    counts = {
        name: _mapping(splits).get("train") for name, splits in sorted(_mapping(bundle.data.get("classes")).items())
    }
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _preprocessing(values: object) -> str:
    try:
        return Preprocess.from_dict(_mapping(values)).describe()
    except UsageError:
        return _json(values)


def _interval(interval: object) -> str:
    if not isinstance(interval, Sequence) or len(interval) != 2:
        return ""
    low, high = interval
    return f"{low:.4f} to {high:.4f}" if isinstance(low, float) and isinstance(high, float) else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(_text(name) for name in names[:_SHOWN_CLASSES])
    return shown if len(names) <= _SHOWN_CLASSES else f"{shown} and {len(names) - _SHOWN_CLASSES:,} more"


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _text(value: object) -> str:
    """One line of text that neither Markdown nor HTML takes for anything else."""
    text = printable(str(value))
    text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _mapping(value: object) -> Mapping[str, Any]:
    """What a file says, if it is an object; an odd one is as good as none, since the card only tells of it."""
    return value if isinstance(value, Mapping) else {}
