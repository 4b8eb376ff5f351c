from dataclasses import replace

import numpy as np
import pytest

from tle.errors import RuntimeChoiceError
from tle.execution import Execution
from tle.images import EXACT_DECODER, FAST_DECODER
from tle.runtimes import plan as plans
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime
from tle.sources import open_source
from tle.tuning import candidates
from tle.tuning.choice import choose
from tle.tuning.memory import ChoiceMemory
from tle.tuning.trial import Trial

BFLOAT16 = Plan(runtime="torch", precision="bfloat16", batch_size=8, replicas=2)
FLOAT32 = Plan(runtime="torch", precision="float32", batch_size=8, replicas=2)


@pytest.fixture(autouse=True)
def bfloat16_in_silicon(monkeypatch):
    """Whatever this processor can: what is measured is the choosing."""
    monkeypatch.setattr(candidates, "accelerated", lambda precision, device: True)


@pytest.fixture
def source(tmp_path, make_images):
    return open_source(make_images(tmp_path / "photos", ["cat", "dog"], 5, 48))


def many(source, times=100_000):
    """A long run over the same files, so that trying something pays."""
    return replace(
        source, ids=source.ids * times, labels=np.tile(source.labels, times), splits=np.tile(source.splits, times)
    )


def decide(backbone, source, decoder=EXACT_DECODER, exhaustive=False, **execution):
    """The choice, and what was said on the way."""
    said = []
    options = {"workers": 2, "device": "cpu"} | execution
    choice = choose(backbone, source, Execution(**options), decoder=decoder, exhaustive=exhaustive, say=said.append)
    assert choice.decoder in (decoder, EXACT_DECODER)
    assert choice.tuning_s >= 0
    assert "\n" not in choice.describe() + "".join(choice.notes)
    return choice, said


def labels(choice):
    return sorted({trial.plan.label for trial in choice.trials})


def remember(backbone, *trials):
    ChoiceMemory(backbone, device="cpu", replicas=2).save(list(trials))


def test_the_reference_asked_for_by_name_is_held_against_nothing(tiny, source, pictures):
    choice, said = decide(tiny, source, runtime="torch", precision="float32")
    assert (choice.plan, choice.parity, choice.trials, choice.notes, said) == (
        replace(FLOAT32, batch_size=5),
        None,
        (),
        (),
        [],
    )
    np.testing.assert_array_equal(choice.runtime(pictures(3)), open_runtime(tiny)(pictures(3)))


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
def test_without_time_nothing_new_is_tried(tiny, source, decoder):
    choice, said = decide(tiny, many(source), decoder, tuning_limit_s=0)
    assert choice.plan == FLOAT32
    assert labels(choice) == ["torch float32"]
    assert said == []
    assert choice.decoder == decoder


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"runtime": "torch"}, {"precision": "int8"}])
def test_what_is_fixed_by_half_runs_even_without_time(tiny, source, options):
    """The first that may be used is; the others are not tried."""
    choice, _ = decide(tiny, source, tuning_limit_s=0, **options)
    assert choice.plan.precision == options.get("precision", "float32")
    assert len(choice.trials) == 1
    assert choice.parity is None or choice.parity.min_cosine >= 0.999


def test_a_long_run_tries_and_says_what_it_found(tiny, source):
    choice, said = decide(tiny, many(source), runtime="torch", batch_size=8)
    assert labels(choice) == ["torch bfloat16", "torch float32"]
    assert said == ["trying torch bfloat16, batches of 8"]
    line = choice.describe()
    assert line.startswith(f"{choice.plan.label}, batches of 8, the backbone alone at ")
    for trial in choice.trials:
        assert f"{trial.images_per_s:.1f}" in line
    assert "images/s" in line
    assert ("cosine" in line) == (choice.parity is not None)


def test_other_batch_sizes_of_the_winner_are_tried(tiny, source):
    choice, _ = decide(tiny, many(source), runtime="torch", precision="auto")
    assert {trial.plan.batch_size for trial in choice.trials if trial.plan.label == choice.plan.label} == {4, 8, 16}


def test_what_goes_into_the_cache(tiny, source):
    choice, _ = decide(tiny, source, runtime="torch", precision="bfloat16", batch_size=3)
    record = choice.record()
    assert record["precision"] == "bfloat16"
    assert record["runtime"] == choice.runtime.description
    assert (record["batch_size"], record["replicas"]) == (3, 2)
    assert record["parity"]["n"] == 10
    assert record["parity"]["min_cosine"] >= 0.999


def test_poor_features_are_not_used_and_that_is_said(lossy, source):
    choice, _ = decide(lossy, many(source), runtime="torch", batch_size=8)
    assert choice.plan.precision == "float32"
    [note] = choice.notes
    assert note.startswith("torch bfloat16 is not used: cosine to the float32 reference on 32 pictures: least ")
    assert note.endswith("below --min-cosine 0.999")


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
@pytest.mark.parametrize("tuning_limit_s", [0, 20])
def test_poor_features_that_were_asked_for_are_refused_with_the_cosine(lossy, source, decoder, tuning_limit_s):
    with pytest.raises(RuntimeChoiceError, match=r"torch bfloat16: cosine .* least -?0\.\d+.*--min-cosine") as caught:
        decide(lossy, source, decoder, runtime="torch", precision="bfloat16", tuning_limit_s=tuning_limit_s)
    assert "\n" not in str(caught.value)


def test_poor_features_are_used_where_the_user_says_so(lossy, source):
    choice, _ = decide(lossy, source, runtime="torch", precision="bfloat16", min_cosine=-1)
    assert choice.plan.precision == "bfloat16"
    assert choice.parity.min_cosine < 0.999
    assert f"least {choice.parity.min_cosine:.6f}" in choice.describe()


@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_what_is_remembered_is_used_at_once(tiny, source, batch_size):
    remember(tiny, Trial(plan=replace(BFLOAT16, batch_size=batch_size), setup_s=0.0, images_per_s=1e9))
    choice, said = decide(tiny, many(source), tuning_limit_s=0)
    assert choice.plan == replace(BFLOAT16, batch_size=batch_size)
    assert said == [f"trying torch bfloat16, batches of {batch_size}"]  # held against the reference on these pictures
    assert choice.parity.min_cosine >= 0.999
    assert labels(choice) == ["torch bfloat16", "torch float32"]
    short, _ = decide(tiny, source, tuning_limit_s=0)
    assert short.plan.batch_size == min(batch_size, 5)  # each replica has its part
    fixed, _ = decide(tiny, source, tuning_limit_s=0, batch_size=2)
    assert fixed.plan.batch_size == 2


def test_what_is_remembered_is_not_used_where_its_features_are_too_far(lossy, source):
    remember(lossy, Trial(plan=BFLOAT16, setup_s=0.0, images_per_s=1e9))
    choice, _ = decide(lossy, many(source), tuning_limit_s=0)
    assert choice.plan == FLOAT32
    assert "torch bfloat16 is not used" in choice.notes[0]


def test_measuring_for_a_benchmark_asks_no_memory_and_leaves_one(tiny, source):
    remember(tiny, Trial(plan=BFLOAT16, setup_s=0.0, images_per_s=1e-3))
    choice, _ = decide(tiny, many(source), exhaustive=True, runtime="torch")
    assert set(labels(choice)) == {"torch bfloat16", "torch float32"}
    assert ChoiceMemory(tiny, device="cpu", replicas=2).find(BFLOAT16).images_per_s > 1


@pytest.mark.parametrize("short", [True, False])
def test_what_was_measured_at_a_batch_size_of_one_run_alone_is_not_remembered(tiny, source, short):
    decide(tiny, source if short else many(source), exhaustive=True, runtime="torch", batch_size=None if short else 2)
    assert ChoiceMemory(tiny, device="cpu", replicas=2).find(BFLOAT16) is None


def test_what_was_remembered_and_is_too_far_now_leaves_what_was_too_costly_to_try(tiny, source):
    remember(tiny, Trial(plan=BFLOAT16, setup_s=0.0, images_per_s=1e6))
    choice, _ = decide(tiny, many(source), runtime="torch", min_cosine=1.0)
    assert choice.plan.label == "torch float32"


def test_a_network_that_does_not_run_in_bfloat16_runs_in_float32(tiny, source):
    """Its own code may make float32 tensors: that is a refused candidate, never a crash."""
    import torch

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.last(x.mean((2, 3)).float())

    choice, _ = decide(replace(tiny, module=Fixed().eval(), dim=3), many(source), exhaustive=True, runtime="torch")
    assert choice.plan.label == "torch float32"
    assert any("torch bfloat16 is not used" in note for note in choice.notes)


def test_a_run_whose_memory_cannot_be_written_says_so(tiny, source, monkeypatch):
    monkeypatch.setenv("TLE_CACHE", "/dev/null/tle")
    choice, _ = decide(tiny, many(source), exhaustive=True, runtime="torch")
    assert any("cannot be remembered" in note for note in choice.notes)


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_without_one_good_picture_nothing_is_compared(tiny, source, decoder, precision):
    for row in range(len(source)):
        source.path(row).write_bytes(b"no picture")
    choice, said = decide(tiny, source, decoder, precision=precision)
    assert choice.plan.label == ("torch float32" if precision == "auto" else "torch bfloat16")
    assert (choice.parity, choice.trials, said) == (None, (), [])


def test_without_one_good_picture_int8_is_one_line(tiny, source):
    for row in range(len(source)):
        source.path(row).write_bytes(b"no picture")
    with pytest.raises(RuntimeChoiceError, match="int8 takes its ranges from your pictures"):
        decide(tiny, source, precision="int8")


def test_one_picture_is_enough(tiny, source):
    choice, _ = decide(tiny, source.spread(1), precision="bfloat16")
    assert (choice.parity.n, choice.parity.neighbour_agreement) == (1, None)
    assert choice.plan.batch_size == 1
    choice, _ = decide(tiny, source.spread(1), runtime="onnxruntime", precision="int8", min_cosine=0.9)
    assert (choice.plan.precision, choice.parity.n) == ("int8", 1)


def test_int8_is_judged_by_other_pictures_than_its_ranges_are_from(tiny, source):
    choice, _ = decide(tiny, source, runtime="onnxruntime", precision="int8", min_cosine=0.9)
    assert choice.parity.n == 5


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_fast_decoder_is_given_up_where_it_changes_too_much(tiny, tmp_path, make_images, precision):
    source = open_source(make_images(tmp_path / "photos", ["cat", "dog"], 5, 200))  # pixels differ by 2 levels
    options = {"runtime": "torch", "precision": precision}
    choice, _ = decide(tiny, source, FAST_DECODER, min_cosine=1.0, **options)
    assert choice.decoder == EXACT_DECODER
    assert any("pictures are decoded exactly" in note for note in choice.notes)
    assert (choice.plan.label, choice.parity) == ("torch float32", None)
    near, _ = decide(tiny, source, FAST_DECODER, **options, min_cosine=0.9, tuning_limit_s=0)
    assert near.decoder == FAST_DECODER
    assert 0.9 < near.parity.min_cosine < 1
    assert near.notes == ()


def test_the_fast_decoder_stays_where_it_changes_nothing(tiny, source):
    """Pictures of 48 pixels are decoded at full size, and here to the same pixels."""
    choice, _ = decide(tiny, source, FAST_DECODER, runtime="torch", precision="float32", min_cosine=1.0)
    assert (choice.decoder, choice.parity.min_cosine) == (FAST_DECODER, 1)


@pytest.mark.parametrize(
    ("workers", "batch_size", "expected"), [(1, None, 8), (2, None, 5), (3, None, 4), (2, 64, 64), (2, 3, 3)]
)
def test_a_short_run_gives_every_replica_its_part(tiny, source, workers, batch_size, expected):
    choice, _ = decide(tiny, source, runtime="torch", precision="float32", workers=workers, batch_size=batch_size)
    assert (choice.plan.batch_size, choice.plan.replicas) == (expected, workers)


def test_where_nothing_is_left_the_message_says_what_is_missing(tiny, source, monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    file = replace(tiny, module=None, name="onnx:x.onnx")  # is refused before it is opened
    with pytest.raises(RuntimeChoiceError, match="nothing here runs onnx:x.onnx in bfloat16.*pip install openvino"):
        decide(file, source, precision="bfloat16")


def test_what_cannot_be_had_is_refused_before_any_picture_is_read(tiny, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(RuntimeChoiceError, match="takes --precision float32, bfloat16"):
        decide(tiny, open_source(tmp_path), runtime="torch", precision="int8")
