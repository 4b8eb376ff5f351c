"""What the card says, and that nothing from users is anything but text in it."""

import re
from dataclasses import replace

import pytest

from tle.bundle import read_bundle
from tle.model_card import model_card

NASTY = ["<script>alert(1)</script>", "a|b", "*bold*_`code`", "line\nbreak", "[x](http://y)", "# title"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, make_finetuned):
    folder = tmp_path_factory.mktemp("card")
    return read_bundle(
        make_finetuned(
            folder / "a.tle",
            NASTY,
            data={
                "images": "/a_b/<i>",
                "kind": "folder",
                "counts": {"train": 20, "val": 2},
                "classes": {NASTY[1]: {"train": 3}},
            },
            metrics={"val": {"n": 2, "top1": 0.5, "top1_interval": [0.25, 0.75], "confusion": [[1]]}},
            training={
                "options": {"note": NASTY[0], "lr": 0.001},
                "groups": [
                    {"name": "stem", "n_parameters": 12, "frozen": True},
                    {"name": "head", "n_parameters": 1234},
                ],
                "history": [{"epoch": 0, "step": 0}, {"epoch": 2, "step": 8}],
                "start": {"init": "photos.head"},
                "verdict": {"kept": "finetuned", "difference": 0.125},
            },
        )
    )


def test_it_says_what_is_known(bundle):
    card = model_card(bundle)
    for text in (
        "torchvision/squeezenet1\\_1",
        "| val | top1 | 0.5000 | 0.2500 to 0.7500 |",
        "Parameter groups: 2, 1 of them frozen; 1,234 parameters trained",
        "Epochs: 2, steps: 8",
        "Started from the head photos.head",
        "| difference | 0.125 |",
        "train 20, val 2",
        "There were no test pictures",
        "Fewer than 10 pictures to train on for 1 class",
        "shorter side 40 (bilinear), crop 32x32",
        "tle predict",
    ):
        assert text in card, text
    assert card == model_card(bundle)


def test_names_of_users_are_only_text(bundle):
    card = model_card(bundle)
    assert "<" not in card.replace("&lt;", "")
    assert not re.search(r"(?<!\\)\*bold", card)
    assert "line\nbreak" not in card
    assert "\n# title" not in card
    assert not re.search(r"(?<!\\)\[x", card)
    for line in card.splitlines():
        if line.startswith("|") and "---" not in line:
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 5), line


def test_a_frozen_one_says_where_its_weights_are(bundle):
    head = replace(bundle.head, spec={**bundle.head.spec, "backbone": bundle.base})
    frozen = replace(bundle, head=head, state=None, base=None)
    assert "it was fine-tuned as below, and that was not kept" in model_card(frozen)
    card = model_card(replace(frozen, training=None, data={}, metrics={}))
    assert "Weights: not in this file; random ones are made when it is used" in card
    named = {**bundle.base, "weights": "IMAGENET1K_V2"}
    frozen = replace(frozen, head=replace(head, spec={**head.spec, "backbone": named}))
    assert "not in this file; IMAGENET1K\\_V2 is loaded when it is used" in model_card(frozen)
    assert "The backbone is as it was published" in card
    assert "None were measured" in card


def test_odd_records_make_no_trouble(bundle):
    head = replace(bundle.head, spec={}, fit={"val": [1], "versions": 3, "chosen": {"C": 1}})
    odd = replace(
        bundle,
        head=head,
        state=None,
        base=None,
        data={"counts": 3, "classes": {"x": 3}},
        metrics={"val": {"top1_interval": "x", "top1": 0.5}},
        training={"options": {}, "groups": [{}], "history": [], "verdict": None},
    )
    assert "features of unknown origin" in model_card(odd)
