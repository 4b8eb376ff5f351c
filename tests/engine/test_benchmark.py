"""One benchmark of a small network, looked at from all sides; no rate decides anything."""

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

import tle
from tle import benchmark, stages
from tle.errors import ImageError, RuntimeChoiceError, UsageError
from tle.execution import Execution

OPTIONS = {
    "backbone": "torchvision/resnet18",
    "weights": "none",
    "overrides": tle.PreprocessOverrides(resize=40, crop=32),
}
LIMITED = Execution(runtime="torch", workers=2, batch_size=4, device="cpu")


def briefly(monkeypatch):
    monkeypatch.setattr(stages, "_MEASURE_S", 0.02)
    monkeypatch.setattr(stages, "_PEAK_M", 256)
    monkeypatch.setattr(stages, "_WRITTEN_BYTES", 1_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """14 pictures, of which two are none."""
    root, rng = tmp_path_factory.mktemp("bench") / "photos", np.random.default_rng(0)
    for number in range(14):
        path = root / ("cat" if number % 2 else "dog") / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
        if number in (3, 12):
            path.write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """A result, what was said on the way, and the folder of what it remembered."""
    said, memory = [], tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        briefly(patch)
        patch.setenv("TLE_CACHE", str(memory))
        return tle.bench(folder, execution=LIMITED, say=said.append, **OPTIONS), said, memory


def test_every_stage_is_there_in_order(found):
    result, _, _ = found
    assert [stage.name for stage in result.stages] == ["read", "decode", "model", "write"]
    assert all(stage.images_per_s > 0 and stage.detail for stage in result.stages)


def test_the_limit_is_what_the_stages_take_one_after_the_other(found):
    result, _, _ = found
    assert 1 / result.limit_images_per_s == pytest.approx(sum(1 / stage.images_per_s for stage in result.stages))
    assert result.efficiency == pytest.approx(result.images_per_s / result.limit_images_per_s)
    assert sum(stage.share for stage in result.stages) == pytest.approx(1)
    for stage in result.stages:
        assert stage.share == pytest.approx(result.limit_images_per_s / stage.images_per_s)
    assert result.binding == max(result.stages, key=lambda stage: stage.share).name


def test_it_says_what_was_run_on_what(found):
    result, said, _ = found
    assert result.backbone == "torchvision/resnet18"
    assert (result.device, result.batch_size, result.threads, result.n_images) == ("cpu", 4, 2, 14)
    assert result.precision in result.runtime
    assert result.gmac_per_image == pytest.approx(0.037, rel=0.1)  # 1.81 at 224, and (32 / 224)^2 of that at 32
    assert result.peak_share > 0
    assert any("random weights" in note for note in result.notes)
    assert any("measuring" in line for line in said)
    assert all("\n" not in line for line in (*said, *result.notes, *result.advice))
    asdict(result)


def test_every_way_that_was_left_open_was_tried(found):
    result, _, _ = found
    tried = {trial.plan.label for trial in result.trials}
    assert "torch float32" in tried
    assert all(label.startswith("torch ") for label in tried)
    assert all(trial.images_per_s > 0 for trial in result.trials)


def test_extraction_starts_from_what_was_found(found, folder, tmp_path, monkeypatch, capsys):
    """Nothing but what is used is tried again, and that only to hold its features against the reference."""
    _, _, memory = found
    monkeypatch.setenv("TLE_CACHE", str(memory))
    result = tle.extract(folder, tmp_path / "c.h5", execution=LIMITED, progress=True, **OPTIONS)
    tried = [line for line in capsys.readouterr().err.splitlines() if "trying" in line]
    assert all(f"trying torch {result.precision}" in line for line in tried)
    assert len(tried) <= 1


def test_stages_that_overlap_are_limited_by_the_slowest():
    measured = [stages.Measured(name=name, images_per_s=rate, detail="") for name, rate in (("a", 50.0), ("b", 200.0))]
    limit, shares = benchmark._limit(measured, overlapped=True)
    assert (limit, shares) == (50, {"a": 1, "b": 0.25})
    limit, shares = benchmark._limit(measured, overlapped=False)
    assert limit == pytest.approx(40)
    assert shares == pytest.approx({"a": 0.8, "b": 0.2})


def test_some_of_the_pictures_are_measured_and_an_onnx_file_as_well(folder, tmp_path, monkeypatch):
    import onnx
    from onnx import TensorProto, helper

    briefly(monkeypatch)
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["out"], axes=[2, 3], keepdims=0)],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    overrides = tle.PreprocessOverrides(resize=40, crop=32, mean=(0, 0, 0), std=(1, 1, 1))
    execution = Execution(runtime="onnxruntime", exact_decode=True, workers=1, device="cpu")
    result = tle.bench(
        folder, backbone=f"onnx:{path}", layer="output", overrides=overrides, execution=execution, n_images=5
    )
    assert result.n_images == 5
    assert (result.gmac_per_image, result.peak_share) == (None, None)
    assert result.precision == "float32"


def test_without_a_picture_that_can_be_read_it_is_one_line(tmp_path, monkeypatch):
    briefly(monkeypatch)
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"no picture")
    for execution in (LIMITED, Execution(device="cpu")):
        with pytest.raises(ImageError, match="not one of 2 pictures .* can be read") as caught:
            tle.bench(tmp_path, execution=execution, **OPTIONS)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_images", [0, -3])
def test_no_pictures_are_refused_before_anything_is_loaded(folder, n_images):
    with pytest.raises(UsageError, match=f"--n-images takes 1 or more, got {n_images}"):
        tle.bench(folder, backbone="torchvision/no-such", n_images=n_images)


def test_a_precision_that_is_too_far_is_refused(folder):
    execution = Execution(runtime="torch", precision="bfloat16", min_cosine=1.0, device="cpu")
    with pytest.raises(RuntimeChoiceError, match="below --min-cosine 1"):
        tle.bench(folder, execution=execution, **OPTIONS)
