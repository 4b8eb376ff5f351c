import json
import math
from typing import Any

import pytest

from tle.errors import UsageError
from tle.preprocess import Preprocess

IMAGENET = Preprocess(
    resize=256, crop=(224, 224), interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


@pytest.mark.parametrize("resize", [256, (240, 320), None])
def test_survives_json(resize: int | tuple[int, int] | None) -> None:
    preprocess = IMAGENET.replace(resize=resize, channels="bgr")
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


def test_lists_out_of_json_become_tuples_so_that_equal_specs_are_equal() -> None:
    preprocess = Preprocess.from_dict({**IMAGENET.to_dict(), "crop": [224, 224], "mean": [0, 0, 0], "std": [1, 1, 1]})
    assert preprocess.crop == (224, 224)
    assert preprocess.mean == (0.0, 0.0, 0.0)
    assert hash(preprocess) == hash(IMAGENET.replace(mean=(0, 0, 0), std=(1, 1, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 0}, "resize should be whole pixels from 1"),
        ({"resize": True}, "resize should be"),
        ({"resize": 256.0}, "resize should be"),
        ({"resize": (256,)}, "resize should be one number"),
        ({"resize": (256, -1)}, "got -1"),
        ({"resize": 10**9}, "got 1000000000"),
        ({"crop": 224}, "crop should be"),
        ({"crop": (0, 224)}, "got 0"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"channels": "grb"}, "got 'grb'"),
        ({"mean": (0.5, 0.5)}, "mean should be three finite numbers"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean should be three finite numbers"),
        ({"mean": "abc"}, "mean should be three finite numbers"),
        ({"std": (1, 1, 0)}, "std should be three positive numbers"),
        ({"std": (1, -1, 1)}, "std should be three positive numbers"),
        ({"size": 224}, "unknown preprocessing key 'size'"),
    ],
)
def test_refuses_what_cannot_be_used(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        IMAGENET.replace(**change)
    assert "\n" not in str(caught.value)


def test_from_dict_names_missing_keys() -> None:
    values = IMAGENET.to_dict()
    del values["crop"], values["std"], values["channels"]
    with pytest.raises(UsageError, match="lacks crop, std$"):
        Preprocess.from_dict(values)


@pytest.mark.parametrize(
    ("resize", "words"),
    [(256, "shorter side 256 (bilinear)"), ((240, 320), "resize 240x320 (bilinear)"), (None, "no resize")],
)
def test_describe_is_one_line(resize: int | tuple[int, int] | None, words: str) -> None:
    line = IMAGENET.replace(resize=resize).describe()
    assert line == f"{words}, crop 224x224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, rgb"
