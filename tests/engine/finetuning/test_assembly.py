import pytest

from tle.bundle import read_bundle
from tle.errors import UsageError
from tle.finetuning.processes import Processes


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.1}, {"mixup": 0.2}, {"cutmix": 1.0}, {"class_weights": True}, {"balanced_sampling": True}],
)
def test_what_only_makes_sense_for_classes_is_refused_elsewhere(train, photos, options):
    files = sorted(path.relative_to(photos) for path in (photos / "train").rglob("*.jpg"))
    (photos / "n.csv").write_text("\n".join(["path,label", *(f"{file},{number}" for number, file in enumerate(files))]))
    (flag,) = options
    with pytest.raises(
        UsageError, match=f"--{flag.replace('_', '-')} needs one class a picture, and the target here is regr"
    ):
        train(images=photos / "n.csv", target="regression", **options)


@pytest.mark.parametrize(("warmup", "schedule", "steps"), [(None, "cosine", 1), ("3", "linear", 3), ("1e", "cosine", 5),
                                                          ("50%", "cosine", 5), (None, "one-cycle", 0)])  # fmt: skip
def test_the_warmup_is_recorded_in_steps(train, warmup, schedule, steps):
    assert train(warmup=warmup, schedule=schedule).training["options"]["warmup_steps"] == steps


def test_a_new_classifier_says_what_it_is(train):
    train(epochs=1, seed=3)
    head = read_bundle("a.tle").head
    assert head.classes == ("blue", "green", "red")
    assert head.spec["backbone"]["weights"] == "fine-tuned"
    assert head.spec["preprocess"]["crop"] == [24, 24]
    assert (head.fit["seed"], head.fit["refit"], head.fit["selection"]["n_val"]) == (3, False, 9)
    assert len(head.fit_digests) == 30
    assert Processes().first
