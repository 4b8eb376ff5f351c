"""Naming parameters by pattern."""

import pytest

from tle.errors import UsageError
from tle.finetuning.patterns import Parameters

NAMES = {
    "features.1.weight": "stem",
    "features.1.bias": "stem",
    "features.10.weight": "features.10",
    "blocks.0.attn.weight": "blocks.0",
    "blocks.1.attn.weight": "blocks.1",
    "head.weight": "head",
}


@pytest.fixture
def parameters():
    called = {name: [name] for name in NAMES} | {"head.weight": ["head.weight", "fc.weight"]}
    return Parameters(called, NAMES)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("features.1", {"features.1.weight", "features.1.bias"}),
        ("features.10.weight", {"features.10.weight"}),
        ("stem", {"features.1.weight", "features.1.bias"}),
        ("*.bias", {"features.1.bias"}),
        ("blocks.?", {"blocks.0.attn.weight", "blocks.1.attn.weight"}),
        ("blocks.[1-9].attn", {"blocks.1.attn.weight"}),
        ("*attn*", {"blocks.0.attn.weight", "blocks.1.attn.weight"}),
        ("head", {"head.weight"}),
        ("fc", {"head.weight"}),
    ],
)
def test_a_pattern_stands_for_parameters(parameters, pattern, found):
    assert parameters.match(pattern, flag="--lr") == found


@pytest.mark.parametrize("pattern", ["feature", "features.1.w", "attn", "blocks.0*x", ""])
def test_a_pattern_for_nothing_is_refused(parameters, pattern):
    with pytest.raises(UsageError, match="--freeze .* matches no parameter.*layers are stem, features.10, blocks.0"):
        parameters.match(pattern, flag="--freeze")


def test_the_refusal_says_what_may_have_been_meant(parameters):
    with pytest.raises(UsageError, match=r"did you mean .*blocks\.1"):
        parameters.match("block.1", flag="--lr")
