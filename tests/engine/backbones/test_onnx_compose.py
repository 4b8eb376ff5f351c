import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.errors import BackboneError
from tle.runtimes.runtime import open_runtime

SIZE = 8
RAW = PreprocessOverrides(mean=(0, 0, 0), std=(1 / 255,) * 3)


def write(path, nodes, constants, shape, elem_type=TensorProto.FLOAT):
    """A graph from `image` to `out`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", elem_type, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def pictures(n, height=SIZE, width=SIZE):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


@pytest.mark.parametrize("rest", [3, -1])
def test_a_batch_that_is_fixed_inside_is_found_out(tmp_path, capfd, rest):
    """A free batch is declared; [1, 3] fails for two pictures, [1, -1] would make one row of them."""
    path = tmp_path / "net.onnx"
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "shape"], ["out"]),
    ]
    write(path, nodes, {"shape": np.array([1, rest], np.int64)}, ["b", 3, SIZE, SIZE])
    backbone = load_backbone(f"onnx:{path}", layer="output", overrides=RAW)
    assert any("fixes the batch at 1" in note for note in backbone.notes)
    pixels = pictures(5)
    np.testing.assert_allclose(open_runtime(backbone)(pixels), pixels.mean((1, 2)), rtol=1e-4)
    assert capfd.readouterr() == ("", ""), "the runtime logged what was told by a note"


def test_a_tensor_without_a_row_for_each_picture_is_refused(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["image"], ["out"], axes=[0, 1], keepdims=0)]
    write(tmp_path / "net.onnx", nodes, {}, ["b", 3, SIZE, SIZE + 1])
    with pytest.raises(BackboneError, match="has shape") as caught:
        load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output", overrides=RAW)
    assert "\n" not in str(caught.value)


def test_a_graph_that_never_runs_is_one_line(tmp_path):
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["out"])]
    write(tmp_path / "net.onnx", nodes, {"shape": np.array([-1, 7], np.int64)}, ["b", 3, SIZE, SIZE])
    with pytest.raises(BackboneError, match=r"net\.onnx") as caught:
        load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output", overrides=RAW)
    assert "\n" not in str(caught.value)


def test_a_map_of_wide_pictures_is_pooled_over_space(tmp_path):
    """Channels last, and height is not width: the axis is seen from the ratio of the pictures."""
    nodes = [helper.make_node("Transpose", ["image"], ["out"], perm=[0, 2, 3, 1])]
    write(tmp_path / "net.onnx", nodes, {}, ["b", 3, 14, 12])
    backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output", overrides=RAW)
    pixels = pictures(2, 14, 12)
    assert (backbone.pool, backbone.dim) == ("avg", 3)
    assert any("pooled by avg" in note for note in backbone.notes)
    np.testing.assert_allclose(open_runtime(backbone)(pixels), pixels.mean((1, 2)), rtol=1e-4)


def test_tokens_with_a_class_token_are_taken_apart_when_asked(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["channels"]),
        helper.make_node("Transpose", ["channels"], ["out"], perm=[0, 2, 1]),
    ]
    write(tmp_path / "net.onnx", nodes, {"shape": np.array([0, 3, -1], np.int64)}, ["b", 3, SIZE, SIZE])
    tokens_BTD = pictures(2).reshape(2, -1, 3).astype(np.float64)
    rest = tokens_BTD[:, 1:].mean(1)
    for pool, expected in (
        ("max", tokens_BTD.max(1)),
        ("cls", tokens_BTD[:, 0]),
        ("cls+avg", np.concatenate((tokens_BTD[:, 0], rest), 1)),
    ):
        backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output", pool=pool, overrides=RAW)
        np.testing.assert_allclose(open_runtime(backbone)(pictures(2)), expected, rtol=1e-4)
        assert not any("pooled" in note for note in backbone.notes)
