"""The pipeline of the GPU: on one if there is one, and in any case in its order, with everything done at once."""

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tle.gpu_pipeline import run_gpu
from tle.images import EXACT_DECODER, FAST_DECODER, GPU_DECODER
from tle.pipeline import Decoding, run
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime
from tle.sources import open_source
from tle.tuning.parity import compare_features

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def source(tmp_path, make_images):
    """11 pictures, of which the first, two beside each other and the last are none."""
    make_images(tmp_path / "photos", ["cat", "dog"], 5, 24)
    Image.new("RGB", (24, 24)).save(tmp_path / "photos" / "dog" / "z.png")
    source = open_source(tmp_path / "photos")
    for row in (0, 4, 5, 10):
        source.path(row).write_bytes(b"no picture")
    return source


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=gpu)])
def device(request):
    return request.param


class Fixed:
    """A runtime that takes just four pictures."""

    batch = 4

    def __init__(self, runtime):
        self._runtime, self.device, self.description = runtime, runtime.device, "fixed"

    def enqueue(self, pixels):
        assert len(pixels) == 4
        return self._runtime.enqueue(pixels)


def decoding_of(backbone, decoder=EXACT_DECODER):
    return Decoding(preprocess=backbone.preprocess, decoder=decoder, max_pixels=10**6)


def batches_of(source, backbone, runtime, batch_size, workers=2, decoder=EXACT_DECODER):
    blocks = (range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size))
    options = {"batch_size": batch_size, "dim": backbone.dim, "workers": workers}
    return list(run_gpu(source, runtime, decoding_of(backbone, decoder), blocks, **options))


def expected(source, backbone, decoder=EXACT_DECODER):
    options = {"batch_size": 3, "dim": backbone.dim, "workers": 2}
    return list(run(source, open_runtime(backbone), decoding_of(backbone, decoder), **options))


def check_same(found, wanted):
    rows = [np.concatenate([batch.indices for batch in batches]) for batches in (found, wanted)]
    np.testing.assert_array_equal(*rows)
    digests = [np.concatenate([batch.digests for batch in batches]) for batches in (found, wanted)]
    np.testing.assert_array_equal(*digests)
    features = [
        np.concatenate([batch.features for batch in batches if len(batch.indices)]) for batches in (found, wanted)
    ]
    np.testing.assert_allclose(*features, atol=1e-4 * np.abs(features[1]).max())
    assert [failure for batch in found for failure in batch.failures] == [
        failure for batch in wanted for failure in batch.failures
    ]


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_it_gives_what_the_pipeline_of_the_cpu_gives(source, tiny, device, batch_size, decoder):
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    found = batches_of(source, tiny, runtime, batch_size, decoder=decoder)
    assert len(found) == -(-len(source) // batch_size)
    assert len([failure for batch in found for failure in batch.failures]) == 4
    check_same(found, expected(source, tiny, decoder))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_what_the_gpu_decodes_itself_is_in_its_place(source, tiny, device, batch_size):
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    found = batches_of(source, tiny, runtime, batch_size, decoder=GPU_DECODER)
    wanted = expected(source, tiny)
    rows, same_rows = ([row for batch in batches for row in batch.indices.tolist()] for batches in (found, wanted))
    assert rows == same_rows == [1, 2, 3, 6, 7, 8, 9]
    assert [failure for batch in found for failure in batch.failures] == [
        failure for batch in wanted for failure in batch.failures
    ]
    near, exact = (np.concatenate([b.features for b in batches if len(b.indices)]) for batches in (found, wanted))
    assert compare_features(exact, near).min_cosine > 0.99


@pytest.mark.parametrize("workers", [1, 4])
def test_gaps_are_closed_and_a_fixed_batch_is_filled(source, tiny, device, workers):
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    check_same(batches_of(source, tiny, Fixed(runtime), 4, workers), expected(source, tiny))


def test_a_batch_of_bad_pictures_alone_has_no_features(source, tiny, device):
    for row in range(len(source)):
        source.path(row).write_bytes(b"no picture")
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    found = batches_of(source, tiny, runtime, 3)
    assert [len(batch.failures) for batch in found] == [3, 3, 3, 2]
    assert not any(len(batch.indices) for batch in found)


def test_features_stay_what_they_were_while_the_run_goes_on(source, tiny, device):
    """Slots are used again: what was given away is a copy."""
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    blocks = (range(row, row + 1) for row in range(len(source)))
    options = {"batch_size": 1, "dim": tiny.dim, "workers": 1}
    kept = []
    for batch in run_gpu(source, runtime, decoding_of(tiny), blocks, **options):
        kept.append((batch.features, batch.features.copy()))
    for features, copy in kept:
        np.testing.assert_array_equal(features, copy)


def test_it_stops_when_nobody_takes_more(source, tiny, device):
    runtime = open_runtime(tiny, Plan(runtime="torch", precision="float32", device=device))
    taken = []
    blocks = (taken.append(row) or range(row, row + 1) for row in range(len(source)))
    options = {"batch_size": 1, "dim": tiny.dim, "workers": 1}
    batches = run_gpu(source, runtime, decoding_of(tiny), blocks, **options)
    next(batches)
    batches.close()
    assert len(taken) <= 6


@pytest.mark.parametrize("runtime", ["torch", "inductor", "onnxruntime"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_each_runtime_of_the_gpu(source, tiny, runtime, precision):
    if runtime == "onnxruntime" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime is built for the CPU alone")
    opened = open_runtime(tiny, Plan(runtime=runtime, precision=precision, device="cuda", batch_size=4))
    found = list(run(source, opened, decoding_of(tiny), batch_size=4, dim=tiny.dim, workers=2))
    if precision == "float32":
        check_same(found, expected(source, tiny))
    else:
        assert sum(len(batch.indices) for batch in found) == 7
