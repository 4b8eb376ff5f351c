import threading

import numpy as np
import pytest
import torch

from tle.errors import RuntimeChoiceError
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime
from tle.tuning.trial import Trial, measure, try_plan

FLOAT32 = Plan(runtime="torch", precision="float32", batch_size=4, replicas=2)
BFLOAT16 = Plan(runtime="torch", precision="bfloat16", batch_size=4, replicas=2)


class Recorder:
    """Mean colours, and who asked for them."""

    def __init__(self):
        self.sizes, self.threads, self.torch_threads = [], set(), set()

    def __call__(self, pixels):
        self.sizes.append(len(pixels))
        self.threads.add(threading.get_ident())
        self.torch_threads.add(torch.get_num_threads())
        return pixels.mean((1, 2)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_rows_come_in_order_in_whole_batches_for_all_replicas(pictures, n):
    pixels, runtime = pictures(n), Recorder()
    features, rate = measure(runtime, pixels, FLOAT32, at_least_s=0.0)
    np.testing.assert_allclose(features, pixels.mean((1, 2)), rtol=1e-5)
    assert set(runtime.sizes) == {4}
    assert len(runtime.sizes) % 2 == 0
    assert sum(runtime.sizes) >= n
    assert rate > 0


def test_one_pass_where_no_time_is_given_and_more_where_it_is(pictures):
    once, often = Recorder(), Recorder()
    measure(once, pictures(8), FLOAT32, at_least_s=0.0)
    measure(often, pictures(8), FLOAT32, at_least_s=0.05)
    assert len(once.sizes) == 2
    assert len(often.sizes) > 2


def test_each_replica_has_one_torch_thread_and_the_caller_keeps_his(pictures):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runtime = Recorder()
        measure(runtime, pictures(8), FLOAT32, at_least_s=0.05)
        assert runtime.torch_threads == {1}
        assert threading.get_ident() not in runtime.threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_near_enough_may_be_used(tiny, pictures):
    pixels = pictures(6)
    trial, runtime = try_plan(tiny, BFLOAT16, pixels, open_runtime(tiny)(pixels), min_cosine=0.999, at_least_s=0.0)
    assert trial.refused is None
    assert trial.parity.n == 6
    assert 0.999 <= trial.parity.min_cosine < 1
    assert trial.images_per_s > 0
    assert trial.setup_s > 0
    assert runtime(pixels).shape == (6, 24)


def test_too_far_is_refused_with_the_cosine(lossy, pictures):
    pixels = pictures(6)
    trial, runtime = try_plan(lossy, BFLOAT16, pixels, open_runtime(lossy)(pixels), min_cosine=0.999, at_least_s=0.0)
    assert runtime is None
    assert trial.parity.min_cosine < 0.999
    assert f"least {trial.parity.min_cosine:.6f}" in trial.refused
    assert trial.refused.endswith("below --min-cosine 0.999")


def test_what_is_not_finite_is_refused(make_backbone, pictures):
    class Overflow(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * 1e30 * (1e30 if x.dtype == torch.bfloat16 else 1)

    backbone, pixels = make_backbone(Overflow(), 3), pictures(3)
    trial, runtime = try_plan(backbone, BFLOAT16, pixels, open_runtime(backbone)(pixels), min_cosine=-0.5)
    assert runtime is None
    assert trial.parity.min_cosine == -1


def test_what_does_not_run_says_why_and_raises_nothing(tiny, pictures):
    pixels = pictures(3)
    for plan in (
        Plan(runtime="torch", precision="float8"),
        Plan(runtime="onnxruntime", precision="int8"),  # without pictures to calibrate on
    ):
        trial, runtime = try_plan(tiny, plan, pixels, open_runtime(tiny)(pixels), min_cosine=0.9)
        assert runtime is None
        assert trial.parity is None
        assert (trial.images_per_s, trial.setup_s) == (0, 0)
        assert trial.refused
        assert "\n" not in trial.refused


def test_an_error_of_the_runtime_is_raised_by_measure(pictures):
    def fail(pixels):
        raise RuntimeChoiceError("no batch today")

    with pytest.raises(RuntimeChoiceError, match="no batch today"):
        measure(fail, pictures(3), FLOAT32)


def test_expected_seconds_are_set_up_and_run():
    assert Trial(plan=FLOAT32, setup_s=3.0, images_per_s=50.0).seconds(200) == 7
    assert Trial(plan=FLOAT32, setup_s=0.0, images_per_s=0.0, refused="no").seconds(200) == float("inf")
