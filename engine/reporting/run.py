"""A report: a classifier measured on pictures, as one HTML page that needs nothing else."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tle.bundle import Bundle, read_classifier
from tle.classifier import Classifier, make_classifier
from tle.enums import Target
from tle.errors import UsageError
from tle.execution import Execution
from tle.files import check_output, publish
from tle.metrics import measure
from tle.picture_scores import PictureScores, score_pictures
from tle.pipeline import Decoding
from tle.progress import tell
from tle.reporting.confusion import confusion
from tle.reporting.feature_map import feature_map
from tle.reporting.figures import figures
from tle.reporting.mistakes import mistakes
from tle.reporting.page import Section, render
from tle.reporting.per_class import per_class
from tle.reporting.pictures import Chosen, choose_pictures, open_pictures
from tle.reporting.provenance import provenance
from tle.reporting.regression import values
from tle.reporting.reliability import reliability
from tle.reporting.subject import Subject
from tle.reporting.summary import data, summary
from tle.reporting.throughput import throughput
from tle.reporting.thumbnails import Thumbnails
from tle.reporting.training import learning_curves, learning_rates

SUFFIXES = (".html", ".htm")
# Pictures that the backbone alone is timed on: some batches a core.
_TIMED = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """What a report run did.

    Attributes:
        path: the page.
        n: pictures measured.
        n_failed: pictures that could not be read.
        bytes: size of the page.
        split: "train", "val", "test" or "all".
        sections: ids of the page's sections.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    n: int
    n_failed: int
    bytes: int
    split: str
    sections: tuple[str, ...]
    notes: tuple[str, ...]


def report(
    classifier: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    weights: str | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> ReportResult:
    """Measure a classifier on labelled pictures and write all that there is to see into one HTML file.

    Args:
        classifier: a head (`.head`) or a classifier (`.tle`).
        output: `NAME.html`.
        images: labelled pictures, a folder or manifest; None takes those that a `.tle` was made of.
        split: "train", "val", "test" or "all"; None takes test where there is one, else the validation pictures, else all
            where none of them was in the fit.
        weights: where the backbone's weights are now, if not where they were.
        execution: how to run the backbone; None leaves all of it to measurement.
        seed: seed of the bootstrap.
        overwrite: replace an existing page.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        TleError: bad input, in one line; see `tle.errors`.
        UsageError: no pictures are known, or none is safe to measure on without being asked.
        AllImagesFailedError: not one picture could be read.
    """
    path, file = Path(output), Path(classifier)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--output takes a name that ends in {' or '.join(SUFFIXES)}, got {path.name!r}")
    check_output(path, overwrite=overwrite, inputs=[part for part in (file, images) if part is not None])
    bundle = read_classifier(file)
    source = open_pictures(bundle, images)
    chosen = choose_pictures(bundle, source, split)
    tell(chosen.notes, shown=progress)
    execution = execution or Execution()
    loaded = make_classifier(bundle, file, weights=weights, execution=execution)
    tell(loaded.backbone.notes, shown=progress)
    found = score_pictures(loaded, chosen.source, progress=progress, say=lambda line: tell([line], shown=progress))
    subject = _subject(file, bundle, loaded, chosen, found, execution, seed)
    tell(subject.metric_notes, shown=progress)
    sections, thumbs = _sections(subject, execution)
    content = _page(subject, sections, thumbs)
    with publish(path) as page:
        page.write(content)
    return ReportResult(
        path=path,
        n=len(subject.rows),
        n_failed=subject.n_failed,
        bytes=len(content),
        split=chosen.split,
        sections=tuple(section.id for section in sections),
        notes=(*subject.notes, *subject.remarks, *subject.metric_notes),
    )


def _subject(
    file: Path,
    bundle: Bundle,
    loaded: Classifier,
    chosen: Chosen,
    found: PictureScores,
    execution: Execution,
    seed: int,
) -> Subject:
    """All that the sections are made of."""
    labels = chosen.labels[found.indices]
    scores = found.scores if chosen.columns is None else found.scores[:, chosen.columns]
    measured = measure(scores, labels, bundle.head.target, seed=seed)
    trained = bundle.head.fit_digests
    if not bundle.head.fit.get("refit"):  # then val pictures were not trained on, which the summary speaks of
        trained = np.setdiff1d(trained, bundle.arrays.get("val_digests", np.zeros(0, np.uint64)))
    return Subject(
        name=file.name,
        bundle=bundle,
        chosen=chosen,
        rows=found.indices,
        labels=labels,
        scores=scores,
        features=found.features,
        seen=int(np.isin(found.digests, trained).sum()),
        metrics=measured.values,
        metric_notes=measured.notes,
        n_failed=len(found.failures),
        images_per_s=found.images_per_s,
        limit_images_per_s=_limit(loaded, chosen, found, execution),
        execution=found.choice.describe(),
        remarks=(*loaded.backbone.notes, *found.choice.notes),
        notes=chosen.notes,
    )


def _limit(loaded: Classifier, chosen: Chosen, found: PictureScores, execution: Execution) -> float | None:
    """Images/s of the backbone alone, as it was run."""
    from tle.stages import good_pictures, model_stage

    decoding = Decoding(
        preprocess=loaded.backbone.preprocess, decoder=found.choice.decoder, max_pixels=execution.max_pixels
    )
    _, pixels = good_pictures(chosen.source.subset(found.indices).spread(_TIMED), decoding)
    return model_stage(found.choice.runtime, pixels, found.choice.plan).images_per_s if len(pixels) else None


def _sections(subject: Subject, execution: Execution) -> tuple[list[Section], list[str]]:
    """The sections that make sense for the target, and the thumbnails that the map refers to."""
    thumbnails = Thumbnails(subject.chosen.source, max_pixels=execution.max_pixels)
    sections = [summary(subject), data(subject), provenance(subject), figures(subject)]
    if subject.target is Target.CLASS:
        sections.append(confusion(subject))
    if subject.target is Target.REGRESSION:
        sections.append(values(subject))
    else:
        sections += [reliability(subject), per_class(subject)]
    sections.append(mistakes(subject, thumbnails))
    sections += [learning_curves(subject), learning_rates(subject)]
    map_section, thumbs = feature_map(subject, thumbnails)
    return [*sections, map_section, throughput(subject)], thumbs


def _page(subject: Subject, sections: list[Section], thumbs: list[str]) -> bytes:
    backbone = subject.bundle.head.spec.get("backbone", {}).get("name", "")
    tuned = "fine-tuned" if subject.bundle.state is not None else "frozen"
    kind = {Target.CLASS: "classifier", Target.MULTILABEL: "multi-label classifier", Target.REGRESSION: "regression"}
    subtitle = f"{tuned} {backbone}, {kind[subject.target]}, measured on {len(subject.rows):,} pictures"
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    footer = f"Written by tle report on {made}. The page holds all it needs and asks nothing of any network."
    return render(subject.name, subtitle, sections, thumbs, footer)
