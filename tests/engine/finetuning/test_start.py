"""Where training starts, and the proof that it does."""

import shutil

import numpy as np
import pytest

import tle
from tle.backbones.load import PreprocessOverrides
from tle.enums import Target
from tle.errors import FingerprintError, HeadError, UsageError
from tle.finetuning.start import check_start, make_network, start_anew, start_from_head, without_val


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
    assert without_val(start, n_train=3, n_val=2, val_fraction=0.1) is start


@pytest.mark.parametrize("kind", ["logistic", "ridge", "lda", "prototype"])
def test_linear_heads_of_every_kind_are_the_start(fit, kind):
    head = fit(head=kind, refit=False)
    start = start_from_head(head, cache=None, weights=None)
    assert start.cache is not None
    network = make_network(start, 3, seed=0)
    layer = tle.load_head(head).model
    np.testing.assert_array_equal(network.head.weight.detach(), layer.weight_KD)
    np.testing.assert_array_equal(network.head.bias.detach(), layer.bias_K)
    assert without_val(start, n_train=21, n_val=9, val_fraction=None) is start


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
    found = check_start(start, ids, scores, labels, Target.CLASS)
    assert (found["n"], found["max_abs_difference"], found["agreement"]) == (9, 0.0, 1.0)
    assert found["accuracy_cache"] == found["accuracy_network"]
    one_off = scores.copy()
    one_off[0] = one_off[0, ::-1]
    assert check_start(start, ids, one_off, labels, Target.CLASS)["agreement"] == pytest.approx(8 / 9)
    with pytest.raises(HeadError, match="answers otherwise than the head on .* for 9 of 9 pictures"):
        check_start(start, ids, np.roll(scores, 1, axis=1), labels, Target.CLASS)
    assert check_start(start, (), scores[:0], labels[:0], Target.CLASS) is None


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
    with pytest.raises(UsageError, match="--cache|was fine-tuned with other pictures held out"):
        train("b.tle", init="a.tle")
