"""Settings as strings and values, and the messages on wrong ones."""

import json

import numpy as np
import pytest

from tle.errors import UsageError
from tle.heads.params import Params, check_seed, parse_params, refuse_unknown


def test_strings_are_read_as_literals_where_they_are_literals():
    parsed = parse_params(["C=1e-3", "k=[1, 10]", "penalty=l2", "depth=None", "flag=True", "name='1'", "eq=a=b"])
    assert parsed == {"C": 1e-3, "k": [1, 10], "penalty": "l2", "depth": None, "flag": True, "name": "1", "eq": "a=b"}
    assert parse_params({"C": "0.5", "k": 3, "grid": (1, 2)}) == {"C": 0.5, "k": 3, "grid": (1, 2)}
    assert parse_params(None) == {}


def test_code_is_not_run():
    assert parse_params(["C=__import__('os').getcwd()"]) == {"C": "__import__('os').getcwd()"}


@pytest.mark.parametrize("text", ["C", "=1", ""])
def test_strings_without_name_or_value(text):
    with pytest.raises(UsageError, match="name=value"):
        parse_params([text])


def test_a_name_given_twice():
    with pytest.raises(UsageError, match=r"C is given twice.*C=\[a,b\]"):
        parse_params(["C=1", "C=10"])


def test_unknown_names_come_with_near_and_valid_ones():
    with pytest.raises(UsageError, match=r"no parameter 'max_itr'; did you mean max_iter\? \(it takes C, max_iter\)"):
        refuse_unknown("logistic", ["max_itr"], ["C", "max_iter"])


def test_lists_are_sorted_and_without_repeats():
    assert Params("h", {"C": [10, 0.1, 10.0]}).numbers("C", (1.0,)) == (0.1, 10.0)
    assert Params("h", {"k": 5}).integers("k", (1,)) == (5,)
    assert Params("h", {}).numbers("C", (1.0, 2.0)) == (1.0, 2.0)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "big", True, None])
def test_numbers_out_of_range(value):
    with pytest.raises(UsageError, match="parameter C of head h takes a number above 0"):
        Params("h", {"C": value}).numbers("C", (1.0,))


@pytest.mark.parametrize("value", [0, 1.5, "3x", True])
def test_integers_out_of_range(value):
    with pytest.raises(UsageError, match="takes a whole number of at least 1"):
        Params("h", {"k": value}).integer("k", 1)


def test_a_seed_of_numpy_is_a_seed_and_becomes_json():
    assert json.dumps([check_seed(np.uint8(7)), check_seed(0)]) == "[7, 0]"


def test_an_empty_list():
    with pytest.raises(UsageError, match="empty list"):
        Params("h", {"C": []}).numbers("C", (1.0,))


def test_an_inclusive_bound():
    assert Params("h", {"weight_decay": 0}).number("weight_decay", 1.0, inclusive=True) == 0.0
