"""Random views as a user makes them: extracted from pictures, and given to a head."""

import pytest

import tle
from tle.cli.main import main

NETWORK = ["--backbone", "torchvision/squeezenet1_1", "--weights", "none", "--resize", "40", "--crop", "32"]
FAST = ["--exact-decode", "--precision", "float32", "--runtime", "torch"]


@pytest.fixture
def extract(tmp_path, make_images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", per_class=8, size=48)
    return lambda name, *flags: main(["extract", "photos", "-o", name, *NETWORK, *FAST, *flags])


def test_views_are_extracted_and_trained_on(extract, capsys):
    assert extract("p.h5") == extract("v1.h5", "--view", "1") == 0
    assert extract("v2.h5", "--view", "2", "--flip", "0", "--crop-scale", "0.5", "0.9", "--rand-augment", "1", "5") == 0
    assert tle.open_cache("v2.h5").spec["view"] == {
        "number": 2, "crop": True, "scale": [0.5, 0.9], "ratio": [3 / 4, 4 / 3], "flip": 0.0, "rand_augment": [1, 5],
    }  # fmt: skip
    assert (
        main(["fit-head", "p.h5", "-o", "a.head", "--head", "linear", "-p", "epochs=3", "--views", "v1.h5", "v2.h5"])
        == 0
    )
    assert [view["number"] for view in tle.load_head("a.head").fit["views"]] == [1, 2]
    capsys.readouterr()
    assert main(["predict", "a.head", "photos", "-o", "p.csv", *FAST[1:]]) == 0
    assert main(["inspect", "v1.h5"]) == 0
    assert "number 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flip", "0.5"], "belong to --view: add --view 1, or leave them out"),
        (["--view", "0"], "--view takes a whole number from 1 on, got 0"),
        (["--view", "1", "--crop-scale", "0.5", "2"], "scale should be (least, largest)"),
    ],
)
def test_refusals(extract, capsys, flags, message):
    assert extract("v.h5", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_view_is_for_head_linear_alone(extract, capsys):
    assert extract("p.h5") == extract("v1.h5", "--view", "1") == 0
    capsys.readouterr()
    assert main(["fit-head", "p.h5", "-o", "a.head", "--views", "v1.h5"]) == 2
    assert "views are for head linear" in capsys.readouterr().err
    assert main(["fit-head", "v1.h5", "-o", "a.head"]) == 2
    assert "holds random views, which are for tle fit-head --views" in capsys.readouterr().err
