from tle.names import list_near_names, near_names


def test_a_slip_is_answered_and_nonsense_is_not():
    known = ["ridge", "knn", "logistic"]
    assert near_names("rigde", known) == "; did you mean ridge?"
    assert near_names("resnet1", ["resnet18", "resnet101"]) == "; did you mean resnet18 or resnet101?"
    assert list_near_names("resnet1", ["resnet18", "resnet101"]) == "; near names: resnet18, resnet101"
    assert near_names("xyz", known) == list_near_names("xyz", known) == ""
