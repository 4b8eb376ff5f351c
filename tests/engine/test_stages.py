import numpy as np
import pytest
import torch

from tle import stages
from tle.errors import ImageError
from tle.images import EXACT_DECODER, FAST_DECODER
from tle.pipeline import Decoding
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime
from tle.sources import open_source

PLAN = Plan(runtime="torch", precision="float32", batch_size=3, replicas=2)


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    """Rates are not looked at here: one short pass will do."""
    monkeypatch.setattr(stages, "_MEASURE_S", 0.0)
    monkeypatch.setattr(stages, "_PASSES", 1)
    monkeypatch.setattr(stages, "_PEAK_M", 64)
    monkeypatch.setattr(stages, "_WRITTEN_BYTES", 100_000)


@pytest.fixture
def source(tmp_path, make_images):
    source = open_source(make_images(tmp_path / "photos", ["cat", "dog"], 4, 24))
    source.path(2).write_bytes(b"no picture")
    source.path(5).unlink()
    return source


@pytest.fixture
def decoding(tiny):
    return Decoding(preprocess=tiny.preprocess, decoder=FAST_DECODER, max_pixels=10**6)


def check(stage, name, unit):
    assert stage.name == name
    assert 0 < stage.images_per_s < float("inf")
    assert unit in stage.detail


def test_good_pictures_alone_are_kept(source, decoding):
    data, pixels = stages.good_pictures(source, decoding)
    assert data == [source.path(row).read_bytes() for row in (0, 1, 3, 4, 6, 7)]
    assert (pixels.shape, pixels.dtype) == ((6, 16, 16, 3), np.uint8)
    assert len({picture.tobytes() for picture in pixels}) == 6


def test_pixels_are_kept_up_to_a_limit_and_bytes_beyond(source, decoding, monkeypatch):
    monkeypatch.setattr(stages, "_KEPT_BYTES", 2 * 16 * 16 * 3)
    data, pixels = stages.good_pictures(source, decoding)
    assert (len(data), len(pixels)) == (6, 2)


def test_without_a_good_picture_there_is_nothing(source, decoding):
    for row in range(len(source)):
        source.path(row).write_bytes(b"no picture")
    data, pixels = stages.good_pictures(source, decoding)
    assert data == []
    assert pixels.shape == (0, 16, 16, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_and_decoding(source, decoding, threads):
    check(stages.read_stage(source, threads), "read", "MB/s")
    data, _ = stages.good_pictures(source, decoding)
    check(stages.decode_stage(data, decoding, threads), "decode", "ms a picture and core")
    check(stages.decode_stage(data[:1], decoding, threads), "decode", "ms a picture and core")  # threads without work


def test_the_model_runs_on_all_replicas(tiny, pictures):
    check(stages.model_stage(open_runtime(tiny), pictures(5), PLAN), "model", "ms a picture and core")


@pytest.mark.parametrize("dim", [1, 24, 50_000])
def test_writing_rows_of_any_size(dim):
    check(stages.write_stage(dim), "write", "MB/s")


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
def test_the_whole_pipeline_counts_every_picture_and_takes_bad_ones(source, tiny, decoding, decoder):
    decoding = Decoding(preprocess=tiny.preprocess, decoder=decoder, max_pixels=10**6)
    assert stages.end_to_end_rate(source, open_runtime(tiny), decoding, PLAN, tiny.dim, 2) > 0


def test_multiply_adds_are_those_of_the_network(tiny, make_backbone):
    # 16 x 16 x 8 outputs of 3 x 3 x 3, then 7 x 7 x 24 of 3 x 3 x 8
    assert stages.gmac_per_image(tiny) == pytest.approx((16 * 16 * 8 * 27 + 7 * 7 * 24 * 72) / 1e9)
    assert stages.gmac_per_image(make_backbone(torch.nn.Flatten(), 768)) == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_large_matrix_product_has_a_rate(precision):
    assert stages.peak_gmac_per_s(Plan(runtime="torch", precision=precision, replicas=2)) > 0


def test_int8_has_no_product_to_compare_with():
    assert stages.peak_gmac_per_s(Plan(runtime="openvino", precision="int8")) is None


def test_stages_leave_torchs_threads_as_they_were(source, tiny, decoding, pictures):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stages.read_stage(source, 1)
        stages.model_stage(open_runtime(tiny), pictures(5), PLAN)
        stages.peak_gmac_per_s(PLAN)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_picture_that_turns_bad_between_two_passes_is_an_error_of_its_own(decoding):
    with pytest.raises(ImageError):
        stages.decode_stage([b"no picture"], decoding, 1)
