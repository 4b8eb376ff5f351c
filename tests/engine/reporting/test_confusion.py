import re

import numpy as np
import pytest

from tle.reporting.confusion import MAX_CLASSES, confusion
from tle.reporting.per_class import per_class


@pytest.fixture
def make_subject(tmp_path):
    """make_subject(labels, predicted, n_classes): what sections of classes are made of, all of one certainty."""
    from tle.bundle import Bundle
    from tle.enums import Target
    from tle.heads.affine import Affine, Link
    from tle.heads.head import Head
    from tle.reporting.pictures import Chosen
    from tle.reporting.subject import Subject
    from tle.sources.source import Source

    def make(labels, predicted, n_classes):
        n, names = len(labels), tuple(f"class {number:03}" for number in range(n_classes))
        scores = np.full((n, n_classes), 0.1 / n_classes, np.float32)
        scores[np.arange(n), predicted] += 0.9
        model = Affine(np.zeros((n_classes, 2), np.float32), np.zeros(n_classes, np.float32), Link.of(Target.CLASS))
        head = Head(kind="logistic", target=Target.CLASS, classes=names, dim=2, fingerprint="f", spec={}, fit={},
                    fit_digests=np.zeros(0, np.uint64), model=model)  # fmt: skip
        source = Source(tmp_path, tuple(f"{row}.jpg" for row in range(n)), labels, names, np.zeros(n, np.uint8),
                        Target.CLASS, "folder")  # fmt: skip
        chosen = Chosen(source=source, split="test", classes=names, columns=None, labels=labels, counts={}, notes=())
        return Subject(
            name="a.head", bundle=Bundle(head=head), chosen=chosen, rows=np.arange(n), labels=labels, scores=scores,
            features=np.zeros((n, 2), np.float32), seen=0, metrics={}, metric_notes=(), n_failed=0, images_per_s=1.0,
            limit_images_per_s=None, execution="", remarks=(), notes=(),
        )  # fmt: skip

    return make


def tips(markup):
    return re.findall(r'data-tip="([^"]*)"', markup.replace("&#160;", " "))


def test_every_cell_that_is_not_empty_says_what_it_is(make_subject):
    section = confusion(make_subject(np.array([0, 0, 0, 1, 2]), np.array([0, 0, 2, 1, 2]), 3))
    assert tips(section.body) == [
        "class 000, right: 2 of 3 (66.7 %)",
        "class 000, taken for class 002: 1 of 3 (33.3 %)",
        "class 001, right: 1 of 1 (100.0 %)",
        "class 002, right: 1 of 1 (100.0 %)",
    ]
    assert section.body.count('<th scope="row">class 000</th><td class="text">class 002</td>') == 1


@pytest.mark.parametrize("n_classes", [MAX_CLASSES, MAX_CLASSES + 1, 203])
def test_beyond_forty_classes_the_map_sums_blocks_and_loses_no_picture(make_subject, n_classes):
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, n_classes, (2, 500))
    section = confusion(make_subject(labels, predicted, n_classes))
    counts = [int(re.search(r": ([\d,]+) of", tip).group(1).replace(",", "")) for tip in tips(section.body)]
    assert sum(counts) == 500
    assert ("stands for" in section.body) == (n_classes > MAX_CLASSES)
    assert len(re.findall(r'class="tick"', section.body)) <= 2 * MAX_CLASSES


def test_the_weakest_class_comes_first_and_undefined_shares_are_dashes(make_subject):
    section = per_class(make_subject(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 3))
    rows = re.findall(r'<th scope="row">([^<]*)</th>(.*?)</tr>', section.body.replace("&#160;", " "))
    assert [name for name, _ in rows] == ["class 002", "class 001", "class 000"]
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", cells) for name, cells in rows}
    assert cells["class 002"][:4] == ["0", *["\N{EN DASH}"] * 3]
    assert cells["class 001"][:4] == ["2", "100.0 %", "50.0 %", "66.7 %"]
    assert cells["class 000"][:4] == ["2", "66.7 %", "100.0 %", "80.0 %"]
