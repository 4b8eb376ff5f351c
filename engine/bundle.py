"""A finished classifier in one file, `NAME.tle`: head, the backbone's weights where they were fine-tuned, and its story.

    classifier.json       head, base of the backbone, data, metrics, training
    tensors.safetensors   head/..., backbone/... (the state dict) and array/...
    model_card.md         the same for people
    estimator.skops       of a head that is an estimator of scikit-learn

# S steps of the training, G parameter groups, n pictures
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.artefact import read_artefact, write_artefact
from tle.enums import Split, Target
from tle.errors import HeadError
from tle.files import check_output
from tle.heads.head import Head, build_head, load_head
from tle.heads.safe_skops import FILE as ESTIMATOR_FILE
from tle.identity import FINETUNED
from tle.model_card import model_card

if TYPE_CHECKING:
    from torch import nn

    from tle.sources import Source

FORMAT = "tle-classifier"
VERSION = 1
DOCUMENT = "classifier.json"
MODEL_CARD = "model_card.md"
_HEAD, _BACKBONE, _ARRAY = "head/", "backbone/", "array/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """What a classifier consists of, and how it came about.

    Attributes:
        head: the fitted head. Of a fine-tuned classifier it is linear, and its spec and fingerprint are those of the
            backbone as it is now.
        state: the state dict of the backbone's module where it was fine-tuned, else None: the weights are then where the
            head's spec says.
        base: the backbone that it was fine-tuned from, as `Backbone.spec` described it, else None.
        data: the pictures: "images", "kind", "counts" by split, "classes" by name and split; may be empty.
        metrics: figures by split, each as `tle.metrics.measure` gives them; may be empty.
        training: options, groups, history, start, verdict, throughput of the fine-tuning; None for a frozen backbone.
        arrays: "lr", float64 (S, G): learning rates that were applied; "val_digests", uint64 (n,): the pictures that the
            fine-tuning was judged by. May be empty.
    """

    head: Head
    state: Mapping[str, NDArray[Any]] | None = None
    base: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What the classifier is and how it came about, as a JSON-able dict for people to read."""
        weights = sum(array.nbytes for array in (self.state or {}).values())
        training = self.training or {}
        last = (training.get("history") or [{}])[-1]
        return {
            **self.head.summary(),
            "fine_tuned": self.state is not None,
            "backbone_bytes": weights,
            "base": dict(self.base or {}),
            "data": {name: value for name, value in self.data.items() if name != "classes"},
            "metrics": {split: _without_confusion(values) for split, values in self.metrics.items()},
            "training": {"options": training.get("options", {}), "last_epoch": last} if training else {},
            "verdict": training.get("verdict") or {},
        }


def state_arrays(module: "nn.Module") -> dict[str, NDArray[Any]]:
    """The state dict of a module as arrays on the CPU, fit for `Bundle.state`.

    Raises:
        HeadError: a tensor of a type that numpy does not have, such as bfloat16.
    """
    import torch

    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.dtype is torch.bfloat16:
            raise HeadError(f"{name} is bfloat16, which a classifier cannot hold: turn the network to float32 first")
    # Copies: what the module becomes afterwards is not what was kept.
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def describe_data(source: "Source") -> dict[str, Any]:
    """The pictures of a classifier as `Bundle.data` has them.

    Args:
        source: the pictures.

    Returns:
        "images" (the root), "kind", "counts" by split and, for classes, "classes": counts by name and split.
    """
    named = {split.name.lower(): source.splits == split for split in Split if (source.splits == split).any()}
    described: dict[str, Any] = {
        "images": str(source.root),
        "kind": source.kind,
        "counts": {name: int(inside.sum()) for name, inside in named.items()},
    }
    if source.target is Target.CLASS:
        count = {
            name: np.bincount(source.labels[inside & (source.labels >= 0)], minlength=len(source.classes))
            for name, inside in named.items()
        }
        described["classes"] = {
            name: {split: int(count[split][number]) for split in named} for number, name in enumerate(source.classes)
        }
    return described


def write_bundle(path: str | Path, bundle: Bundle, *, overwrite: bool = True) -> Path:
    """Write a classifier, atomically. The same content gives the same bytes.

    Args:
        path: the file, `NAME.tle`.
        bundle: the content.
        overwrite: whether an existing file may be replaced.

    Returns:
        `path`.

    Raises:
        OutputError: the path cannot be written, or exists and may not be replaced.
        HeadError: a record that is not JSON, or parts that do not belong together.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    _check(bundle)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "head": bundle.head.document(),
        "fine_tuned": bundle.state is not None,
        "base": None if bundle.base is None else dict(bundle.base),
        "data": dict(bundle.data),
        "metrics": dict(bundle.metrics),
        "training": None if bundle.training is None else dict(bundle.training),
    }
    tensors: dict[str, NDArray[Any]] = {}
    for prefix, arrays in ((_HEAD, bundle.head.arrays()), (_BACKBONE, bundle.state or {}), (_ARRAY, bundle.arrays)):
        tensors |= {f"{prefix}{name}": array for name, array in arrays.items()}
    files = {**bundle.head.model.files(), MODEL_CARD: model_card(bundle).encode()}
    return write_artefact(path, document, tensors, files, document_name=DOCUMENT)


def read_bundle(path: str | Path) -> Bundle:
    """Read a classifier written by `write_bundle`; nothing in the file is executed.

    That the backbone's weights are those of the digest is looked at when the network is built (`tle.load_classifier`).

    Args:
        path: the file.

    Returns:
        The classifier's parts.

    Raises:
        HeadError: missing, damaged, no classifier, or of a newer version.
    """
    path = Path(path)
    artefact = read_artefact(path, document_name=DOCUMENT, allowed=[ESTIMATOR_FILE, MODEL_CARD])
    document = artefact.document
    if document.get("format") != FORMAT:
        raise HeadError(f"{path} is not a classifier of tle: its format is {document.get('format')!r}")
    if document.get("version") != VERSION:
        raise HeadError(
            f"{path} has classifier version {document.get('version')!r}, this version of tle reads {VERSION}: update tle"
        )
    parts: dict[str, dict[str, NDArray[Any]]] = {_HEAD: {}, _BACKBONE: {}, _ARRAY: {}}
    for name, array in artefact.tensors.items():
        prefix, slash, rest = name.partition("/")
        if f"{prefix}{slash}" not in parts or not rest:
            raise HeadError(f"{path} is damaged: it holds an unexpected tensor {name!r}")
        parts[f"{prefix}{slash}"][rest] = array
    for name in ("head", "data", "metrics"):
        if not isinstance(document.get(name), dict):
            raise HeadError(f"{path} is damaged: {name} should be a JSON object, found {document.get(name)!r:.40}")
    for name in ("base", "training"):
        if not isinstance(document.get(name), dict | None):
            raise HeadError(f"{path} is damaged: {name} should be a JSON object or null")
    if not isinstance(document.get("fine_tuned"), bool):
        raise HeadError(
            f"{path} is damaged: fine_tuned should be true or false, found {document.get('fine_tuned')!r:.40}"
        )
    bundle = Bundle(
        head=build_head(path, document["head"], parts[_HEAD], artefact.files),
        state=parts[_BACKBONE] if document["fine_tuned"] else None,
        base=document["base"],
        data=document["data"],
        metrics=document["metrics"],
        training=document["training"],
        arrays=parts[_ARRAY],
    )
    try:
        if bundle.state is None and parts[_BACKBONE]:
            raise HeadError("it holds weights of a backbone and says that none was fine-tuned")
        _check(bundle)
    except HeadError as error:
        raise HeadError(f"{path} is damaged: {error}") from error
    return bundle


def is_bundle(path: str | Path) -> bool:
    """Whether a file is, by its content, a classifier as `write_bundle` writes it; a damaged one may be."""
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            return False
        with zipfile.ZipFile(path) as archive:
            return DOCUMENT in archive.namelist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError):
        return False  # opening it as what it may be says what is wrong


def read_classifier(path: str | Path) -> Bundle:
    """Read a head or a classifier, told by its content; of a head the rest is empty.

    Raises:
        HeadError: the file is neither, or damaged.
    """
    return read_bundle(path) if is_bundle(path) else Bundle(head=load_head(path))


def _check(bundle: Bundle) -> None:
    """Refuse parts that do not belong together.

    Raises:
        HeadError: they do not.
    """
    recorded = bundle.head.spec.get("backbone")
    weights = recorded.get("weights") if isinstance(recorded, Mapping) else None
    fine_tuned = weights == FINETUNED
    if fine_tuned != (bundle.state is not None) or fine_tuned != (bundle.base is not None):
        raise HeadError(
            f"the head is of weights {weights!r}: a fine-tuned backbone ({FINETUNED!r}) comes with its weights and its base, "
            "another with neither"
        )
    for split, values in bundle.metrics.items():
        if not isinstance(values, Mapping):
            raise HeadError(f"metrics of {split!r} should be a JSON object")
    if bundle.training is not None:
        _check_training(bundle.training)
    lr_SG = bundle.arrays.get("lr")
    groups = (bundle.training or {}).get("groups", [])
    if lr_SG is not None:
        good = lr_SG.dtype == np.float64 and lr_SG.ndim == 2 and lr_SG.shape[1] == len(groups)
        if not good or not np.isfinite(lr_SG).all():
            raise HeadError(
                f"expected finite float64 learning rates (steps, {len(groups)}), found {lr_SG.shape} {lr_SG.dtype}"
            )
    digests = bundle.arrays.get("val_digests")
    if digests is not None and (digests.ndim != 1 or digests.dtype != np.uint64):
        raise HeadError(f"expected one-dimensional uint64 val_digests, found {digests.shape} {digests.dtype}")


def _check_training(training: Mapping[str, Any]) -> None:
    """See `_check`: the shape of the record, so that whoever shows it need not."""
    if not isinstance(training.get("options"), Mapping):
        raise HeadError("the training's options should be a JSON object")
    for name in ("groups", "history"):
        rows = training.get(name)
        if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
            raise HeadError(f"the training's {name} should be a list of JSON objects")
    for name in ("start", "verdict", "throughput"):
        if not isinstance(training.get(name), Mapping | None):
            raise HeadError(f"the training's {name} should be a JSON object")


def _without_confusion(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "confusion"}
