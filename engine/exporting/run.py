"""A classifier becomes one file that others can use, after it was shown to be the same classifier."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tle.backbones import checkpoint
from tle.bundle import Bundle, describe_data, read_classifier, write_bundle
from tle.classifier import check_recorded, make_classifier
from tle.cores import usable_cores
from tle.enums import Target
from tle.errors import BackboneError, HeadError, UsageError
from tle.exporting.agreement import Agreement, Scorer, compare, score_with
from tle.exporting.int8_cost import Rows, choose_rows, int8_cost
from tle.exporting.onnx_classifier import OnnxClassifier, open_onnx
from tle.exporting.onnx_head import affine_of
from tle.exporting.torch_classifier import TorchClassifier
from tle.files import check_output
from tle.identity import FINETUNED
from tle.images import DECODERS, DEFAULT_MAX_PIXELS, EXACT_DECODER
from tle.runtimes.runtime import open_runtime
from tle.sources import Source, open_source
from tle.tuning.sample import take_sample

if TYPE_CHECKING:
    from tle.classifier import Classifier
    from tle.heads.head import Head

FORMATS = {".tle": "tle", ".onnx": "onnx", ".pt2": "torch-export"}
CHECKED = 200  # pictures
# Float32 sums in another order differ by some 1e-6 in a probability; what differs by more is another classifier.
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the file.
        format: "tle", "onnx" or "torch-export".
        n_bytes: its size.
        n_checked: pictures that its scores were compared on; 0 for a .tle, which computes nothing.
        max_abs_difference: the largest difference of a score to float32 torch on them (ONNX Runtime for a backbone that is
            an ONNX file), before any quantisation; None for a .tle.
        top1_agreement: part of them with the same most probable class; None where there are no classes to choose from.
        int8: what the quantisation costs, as `tle.exporting.int8_cost.int8_cost` says it, with the split; None without.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    format: str
    n_bytes: int
    n_checked: int = 0
    max_abs_difference: float | None = None
    top1_agreement: float | None = None
    int8: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def export(
    classifier: str | Path,
    output: str | Path,
    *,
    to: str | None = None,
    images: str | Path | None = None,
    int8: bool = False,
    split: str | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ExportResult:
    """Turn a classifier into one file: .tle, .onnx or .pt2.

    A graph takes uint8 pixels (B, H, W, 3), resized and cropped, and gives float32 probabilities; normalisation and head are
    in it, classes and the sizes are in its metadata. It is compared with the classifier on pictures before it is written.

    Args:
        classifier: a head or a classifier.
        output: the file to write.
        to: "tle", "onnx" or "torch-export"; None goes by the suffix of `output`, which may not say something else.
        images: a folder or manifest of pictures to compare on; None takes those that the classifier was made from, where it
            knows them. To a .tle: those that it was made from, to be written down where it does not know them.
        int8: quantise the backbone of an ONNX graph. Labelled pictures are needed, to take ranges from and to measure on.
        split: for int8: which pictures to measure its cost on; None takes val.
        weights: where the backbone's weights are now, if not where they were.
        overwrite: replace an existing file.
        progress: show progress on standard error.

    Returns:
        What was written, and how near it is.

    Raises:
        UsageError: an unknown format, options that do not go together, or no pictures to compare on.
        HeadError: a head that is not linear in a graph, or scores that differ by more than 1e-3: nothing is written.
        RuntimeChoiceError: a backbone that cannot be exported.
        TleError: the classifier, its backbone or the pictures cannot be used.
    """
    path, origin = Path(output), Path(classifier)
    kind = _format(path, to)
    if int8 and kind != "onnx":
        raise UsageError(f"--int8 goes with an .onnx, not with {path.name}")
    if split is not None and not int8:
        raise UsageError("--split says what the cost of --int8 is measured on, and goes with it alone")
    check_output(path, overwrite=overwrite, inputs=[origin, *([] if images is None else [images])])
    bundle = read_classifier(origin)
    if kind == "tle":
        return _export_tle(bundle, origin, path, images, weights)
    affine_of(bundle.head)
    where = _images(bundle, images)
    source = open_source(where, target=bundle.head.target if int8 else Target.NONE)
    rows = choose_rows(source, where, split, bundle.arrays.get("val_digests")) if int8 else None
    loaded = make_classifier(bundle, origin, weights=weights)
    notes = loaded.backbone.notes
    reference = score_with(open_runtime(loaded.backbone), bundle.head)
    if kind == "torch-export":
        program = TorchClassifier(loaded)
        found = _check(loaded, source, reference, program.scorer(), progress=progress)
        program.write(path, _metadata(loaded, found, None))
        return _result(path, kind, found, None, notes)
    with open_onnx(loaded) as graph:
        scorer = graph.scorer()
        found = _check(loaded, source, reference, scorer, progress=progress)
        if graph.batch is not None:
            notes += (f"the graph takes {graph.batch} pictures at a time, as the ONNX file of its backbone does",)
        cost = None
        if rows is not None:
            cost = _quantize(loaded, graph, scorer, source, where, rows, progress=progress)
            notes += rows.notes
            if seen := cost["seen_in_fit"]:
                notes += (f"{seen} of the {cost['n']} pictures that int8 is measured on were in the fit",)
        graph.write(path, _metadata(loaded, found, cost))
    return _result(path, kind, found, cost, notes)


def _format(path: Path, to: str | None) -> str:
    if to is not None:
        if to not in FORMATS.values():
            raise UsageError(f"--to takes {', '.join(FORMATS.values())}, got {to!r}")
        if (called := FORMATS.get(path.suffix.lower(), to)) != to:
            raise UsageError(
                f"--to {to} and the name {path.name}, which says {called}, differ: leave --to out, or name another file"
            )
        return to
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--output takes a name that ends in {', '.join(FORMATS)}, or --to a format; got {path.name!r}"
        )
    return FORMATS[path.suffix.lower()]


def _images(bundle: Bundle, images: str | Path | None) -> Path:
    """The pictures to compare on: those named, or those that the classifier was made from."""
    if images is not None:
        return Path(images)
    recorded = bundle.data.get("images")
    if not isinstance(recorded, str):
        why = "this classifier does not say which it was made from"
    elif not Path(recorded).exists():
        why = f"those that it was made from are no longer at {recorded}"
    elif bundle.data.get("kind") != "folder":
        why = f"those that it was made from, below {recorded}, were listed by a manifest"
    else:
        return Path(recorded)
    raise UsageError(
        f"what is exported is compared on pictures first, and {why}: name some with --images (up to {CHECKED} are looked at)"
    )


def _check(
    classifier: "Classifier", source: Source, reference: Scorer, exported: Scorer, *, progress: bool
) -> Agreement:
    """Compare on pictures spread over the source, and refuse what is another classifier."""
    found = compare(classifier, source.spread(CHECKED), reference, exported, what="comparing", shown=progress)
    if not found.max_abs_difference <= MAX_DIFFERENCE:
        raise HeadError(
            f"the exported graph gives other scores than the classifier (differing by up to {found.max_abs_difference:.2g} on "
            f"{len(found.indices)} pictures, at most {MAX_DIFFERENCE:g} is expected): nothing was written; try another format"
        )
    return found


def _quantize(
    classifier: "Classifier",
    graph: OnnxClassifier,
    float32: Scorer,
    source: Source,
    images: Path,
    rows: Rows,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Turn the graph to int8 and say what that costs."""
    decoder = str(classifier.head.spec["decoder"])
    sample = take_sample(
        source.subset(rows.calibration),
        classifier.backbone.preprocess,
        len(rows.calibration),
        decoder=decoder if decoder in DECODERS else EXACT_DECODER,
        max_pixels=DEFAULT_MAX_PIXELS,
        workers=usable_cores(),
    )
    graph.quantize(sample.pixels)
    measured = source.subset(rows.measured)
    agreement = compare(classifier, measured, float32, graph.scorer(), what="measuring int8", shown=progress)
    cost = int8_cost(classifier.head, agreement, measured, images)
    return {**cost, "split": rows.split, "n_calibration": len(sample)}


def _metadata(classifier: "Classifier", found: Agreement, cost: Mapping[str, Any] | None) -> dict[str, str]:
    """What goes into a graph's file: all that it takes to use it without tle, each a JSON text."""
    head, preprocess = classifier.head, classifier.backbone.preprocess.to_dict()
    content = {
        "tle_version": version("tle"),
        "target": str(head.target),
        "classes": list(head.classes),
        # Mean, standard deviation and channel order are in the graph.
        "preprocessing": {name: preprocess[name] for name in ("resize", "crop", "interpolation")},
        "decoder": head.spec["decoder"],
        "backbone": classifier.backbone.spec(),
        "check": {"n": len(found.indices), "max_abs_difference": found.max_abs_difference},
    }
    if cost is not None:
        content["int8"] = dict(cost)
    return {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in content.items()}


def _result(
    path: Path, kind: str, found: Agreement, cost: dict[str, Any] | None, notes: tuple[str, ...]
) -> ExportResult:
    return ExportResult(
        path=path,
        format=kind,
        n_bytes=path.stat().st_size,
        n_checked=len(found.indices),
        max_abs_difference=found.max_abs_difference,
        top1_agreement=found.top1_agreement,
        int8=cost,
        notes=notes,
    )


def _export_tle(
    bundle: Bundle, origin: Path, path: Path, images: str | Path | None, weights: str | None
) -> ExportResult:
    """Put everything that is known into one .tle; of a frozen backbone that is where its weights are, not they."""
    if images is not None and bundle.data:  # what was trained on would be replaced by what was not
        raise UsageError(
            f"{origin} knows the pictures that it was made from ({bundle.data.get('images')}), and a .tle is not compared on "
            "any: leave --images out"
        )
    recorded, _ = check_recorded(bundle.head, origin)
    notes: tuple[str, ...] = ()
    if weights is not None:
        found = make_classifier(bundle, origin, weights=weights).backbone.weights
        bundle = replace(bundle, head=_moved(bundle.head, found))
    elif recorded["weights"] != FINETUNED and checkpoint.is_file_reference(recorded["weights"]):
        try:
            checkpoint.resolve(recorded["weights"])
        except BackboneError as error:
            notes += (f"the backbone's weights are not where they were ({error}): name them with --weights",)
    if images is not None:
        bundle = replace(bundle, data=describe_data(open_source(images, target=bundle.head.target)))
    if not bundle.metrics and bundle.head.fit.get("val"):
        bundle = replace(bundle, metrics={"val": bundle.head.fit["val"]})
    write_bundle(path, bundle)
    return ExportResult(path=path, format="tle", n_bytes=path.stat().st_size, notes=notes)


def _moved(head: "Head", weights: str) -> "Head":
    """The head, its backbone's weights under another name; their digest, and so its identity, stay."""
    return replace(head, spec={**head.spec, "backbone": {**head.spec["backbone"], "weights": weights}})
