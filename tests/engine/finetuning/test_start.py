"""Where training starts, and the proof that it does."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import tle
from tle.backbones.load import PreprocessOverrides
from tle.enums import Target
from tle.errors import FingerprintError, HeadError, UsageError
from tle.finetuning.pictures import select_pictures
from tle.finetuning.start import check_start, make_network, start_anew, start_from_head, without_val


def dealt(start, **options):
    """The pictures, dealt for a start."""
    return select_pictures(
        tle.open_source("photos"), None, cache=start.cache, **{"val_fraction": 0.1, "seed": 0, **options}
    )


def test_a_new_head_has_torch_s_initial_values_of_the_seed(photos):
    import torch

    start = start_anew(
        "tinynet:make", weights="DEFAULT", layer=None, pool=None, overrides=PreprocessOverrides(resize=28, crop=24)
    )
    network = make_network(start, 3, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.nn.Linear(16, 3)
    assert torch.equal(network.head.weight, expected.weight)
    assert torch.equal(network.head.bias, expected.bias)
    assert without_val(start, dealt(start)) is start


@pytest.mark.parametrize("kind", ["logistic", "ridge", "lda", "prototype"])
def test_linear_heads_of_every_kind_are_the_start(fit, kind):
    head = fit(head=kind, refit=False)
    start = start_from_head(head, cache=None, weights=None)
    assert start.cache is not None
    network = make_network(start, 3, seed=0)
    layer = tle.load_head(head).model
    np.testing.assert_array_equal(network.head.weight.detach(), layer.weight_KD)
    np.testing.assert_array_equal(network.head.bias.detach(), layer.bias_K)
    assert without_val(start, dealt(start)) is start


def test_other_heads_are_not(fit):
    with pytest.raises(HeadError, match="is a knn head, and fine-tuning starts from a linear one"):
        start_from_head(fit(head="knn"), cache=None, weights=None)


def test_a_head_of_folds_is_fitted_without_what_is_held_out_now(photos, fit, train):
    shutil.rmtree(photos / "val")
    head = fit(folds=3, params={"C": 0.01})
    result = train(init=head, val_fraction=0.3, epochs=1, lr=1e-30)
    assert (result.n_train, result.n_val) == (15, 6)
    alone = fit("alone", val_fraction=0.3, refit=False, params={"C": 0.01})
    again = train("b.tle", init=alone, epochs=1, lr=1e-30)
    assert result.training["history"][0]["val_loss"] == pytest.approx(again.training["history"][0]["val_loss"])


def test_the_scores_before_any_step_have_to_be_those_of_the_cache(fit):
    start = start_from_head(fit(refit=False), cache=None, weights=None)
    cache = start.cache
    ids, labels = cache.ids[-9:], cache.labels[-9:]
    scores = start.layer.scores(np.asarray(cache.features[-9:], np.float32))
    found = check_start(start, ids, scores, labels, Target.CLASS, precision="float32")
    assert (found["n"], found["max_abs_difference"], found["agreement"]) == (9, 0.0, 1.0)
    assert found["accuracy_cache"] == found["accuracy_network"]
    rounded = scores + np.float32(1e-3) * np.sign(scores - scores.mean())
    assert check_start(start, ids, rounded, labels, Target.CLASS, precision="float32")["agreement"] == 1.0
    one_off = scores.copy()
    one_off[0] = one_off[0, ::-1]
    with pytest.raises(HeadError, match="answers otherwise than the head on .*, by up to"):
        check_start(start, ids, one_off, labels, Target.CLASS, precision="float32")
    with pytest.raises(HeadError, match="answers otherwise than the head on .*, by up to"):  # no classes to agree on
        check_start(start, ids, np.roll(scores, 1, axis=1), np.eye(3)[labels], Target.MULTILABEL, precision="float32")
    with pytest.raises(HeadError, match="answers otherwise than the head on .*, for 9 of 9 pictures"):
        check_start(start, ids, np.roll(scores, 1, axis=1), labels, Target.CLASS, precision="float32")
    tilted = scores + np.float32(3e-2) * np.sign(scores - scores.mean())
    assert check_start(start, ids, tilted, labels, Target.CLASS, precision="bfloat16")["agreement"] == 1.0
    with pytest.raises(HeadError, match="answers otherwise than the head on .*, by up to 0.03"):
        check_start(start, ids, tilted, labels, Target.CLASS, precision="float32")
    assert check_start(start, (), scores[:0], labels[:0], Target.CLASS, precision="float32") is None


def test_what_the_caller_names_is_not_replaced_in_silence(fit, photos):
    head = fit()
    fit("other", network="tail")
    with pytest.raises(FingerprintError, match="other.h5 holds other features than photos.head was fitted on"):
        start_from_head(head, cache=photos.parent / "other.h5", weights=None)
    shutil.copy("other.h5", "photos.h5")
    start = start_from_head(head, cache=None, weights=None)
    assert start.cache is None
    assert any("photos.h5 beside photos.head holds other features and is not used" in note for note in start.notes)


def test_a_classifier_of_other_pictures_cannot_be_compared(train, photos):
    train(keep="last")
    shutil.rmtree(photos / "val" / "red")
    with pytest.raises(
        UsageError, match="the head was fitted on 30 pictures and left 0 for test, here these would be 27 and 0"
    ):
        train("b.tle", init="a.tle")


def test_pictures_that_were_test_to_the_head_are_never_trained_on(fit, train, photos):
    """Splits that a head was fitted with are not those of its cache: they have to be given again."""
    shutil.rmtree(photos / "val")
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    rows = [f"{name},{'test' if number % 3 == 0 else 'train'}" for number, name in enumerate(names)]
    (photos.parent / "splits.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    head = fit(splits="splits.csv")
    with pytest.raises(UsageError, match="fitted on 14 pictures and left 7 for test, here these would be 21 and 0"):
        train(init=head)
    result = train(init=head, splits="splits.csv", keep="last")
    assert result.n_train + result.n_val == 14
    digests = tle.open_cache("photos.h5").digests
    tested = digests[[number for number in range(21) if number % 3 == 0]]
    assert not np.isin(tested, tle.read_bundle("a.tle").head.fit_digests).any()


def test_trained_again_what_decides_is_what_decided_before(fit, train, photos):
    shutil.rmtree(photos / "val")
    head = fit(seed=3)
    train(init=head, seed=1, keep="last")
    train("b.tle", init="a.tle", seed=2, keep="last")
    first, second = tle.read_bundle("a.tle"), tle.read_bundle("b.tle")
    np.testing.assert_array_equal(first.arrays["val_digests"], second.arrays["val_digests"])
    assert second.base == first.base
    shutil.rmtree("photos.h5", ignore_errors=True)
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):  # as many pictures, dealt otherwise
        path.rename(path.with_name(f"{(number * 5) % 7}{path.name}"))
    with pytest.raises(UsageError, match="pictures that would decide were trained on when a.tle was made"):
        train("c.tle", init="a.tle")


def test_a_gpu_s_pictures_are_decoded_otherwise_and_that_is_said(fit):
    head = fit(refit=False)
    found = tle.load_head(head)
    dataclasses.replace(found, spec={**found.spec, "decoder": "nvjpeg/1"}).save("gpu.head")
    start = start_from_head(Path("gpu.head"), cache=None, weights=None)
    assert start.decoder == "turbo/1"
    assert any("nvjpeg/1" in note for note in start.notes)
