"""A classifier as a torch program: what comes back from the file gives the same scores."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tle.classifier import Classifier
from tle.enums import Target
from tle.errors import RuntimeChoiceError
from tle.execution import Execution
from tle.exporting.agreement import score_with
from tle.exporting.torch_classifier import METADATA, TorchClassifier
from tle.heads.affine import Affine, Link
from tle.heads.head import Head
from tle.runtimes.runtime import open_runtime


def make_classifier(backbone, target=Target.CLASS, *, unit_rows=False):
    outputs = 1 if target is Target.REGRESSION else 4
    weight = np.random.default_rng(0).normal(size=(outputs, backbone.dim)).astype(np.float32)
    head = Head(
        kind="linear",
        target=target,
        classes=() if target is Target.REGRESSION else tuple("abcd"),
        dim=backbone.dim,
        fingerprint="f",
        spec={},
        fit={},
        fit_digests=np.zeros(0, np.uint64),
        model=Affine(weight, np.zeros(outputs, np.float32), Link.of(target), unit_rows),
    )
    return Classifier(head, backbone, Execution())


@pytest.mark.parametrize("target", [Target.CLASS, Target.MULTILABEL, Target.REGRESSION])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_scores_are_those_of_the_classifier(tiny, pictures, tmp_path, target, unit_rows):
    classifier = make_classifier(tiny, target, unit_rows=unit_rows)
    reference = score_with(open_runtime(tiny), classifier.head)
    program = TorchClassifier(classifier)
    score = program.scorer()
    for n in (1, 2, 5):
        pixels = pictures(n)
        np.testing.assert_allclose(score(pixels), reference(pixels), atol=1e-5)
    program.write(tmp_path / "a.pt2", {"classes": '["a"]'})
    extra = {METADATA: ""}
    loaded = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    np.testing.assert_allclose(loaded(torch.from_numpy(pixels)).detach(), reference(pixels), atol=1e-5)
    assert json.loads(extra[METADATA]) == {"classes": '["a"]'}


def test_the_classifier_runs_on_after_it(tiny, pictures):
    classifier = make_classifier(tiny)
    reference = open_runtime(tiny)
    before = reference(pictures(3))
    TorchClassifier(classifier)
    np.testing.assert_array_equal(reference(pictures(3)), before)


def test_a_network_that_cannot_be_exported_is_one_line(make_backbone):
    class Moody(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(RuntimeChoiceError, match="cannot be exported by torch") as caught:
        TorchClassifier(make_classifier(make_backbone(Moody(), 3)))
    assert "\n" not in str(caught.value)
