import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.errors import RuntimeChoiceError
from tle.runtimes.onnx_session import OnnxSession
from tle.runtimes.plan import Plan

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


@pytest.fixture(params=["b", 2])
def session(request, tmp_path):
    nodes = [helper.make_node("ReduceMean", ["image"], ["out"], axes=[2, 3], keepdims=0)]
    write(tmp_path / "net.onnx", nodes, {}, [request.param, 3, SIZE, SIZE])
    backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output", overrides=RAW)
    return OnnxSession(backbone, Plan(runtime="onnxruntime", precision="float32"))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_pictures_runs_on_a_free_and_on_a_fixed_batch(session, n):
    pixels = np.random.default_rng(n).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)
    features = session(pixels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, pixels.mean((1, 2)), rtol=1e-4)


def test_a_batch_that_does_not_run_is_one_line(session, capfd):
    with pytest.raises(RuntimeChoiceError, match="batch of 2") as caught:
        session(np.zeros((2, SIZE + 1, SIZE, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
