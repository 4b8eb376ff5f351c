"""An ONNX file of one's own as a backbone."""

import numpy as np
import pytest


@pytest.fixture
def make_onnx_backbone(tmp_path):
    """make_onnx_backbone(batch="b"): one convolution and a mean, 5 features of 16 x 16 pixels; `batch` may be a number."""

    def make(batch="b"):
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        from tle.backbones.load import PreprocessOverrides, load_backbone

        weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["image", "weights"], ["maps"]),
            helper.make_node("Relu", ["maps"], ["rectified"]),
            helper.make_node("ReduceMean", ["rectified"], ["out"], axes=[2, 3], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 16])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weights, "weights")],
        )
        path = tmp_path / "net.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        overrides = PreprocessOverrides(mean=(0.5,) * 3, std=(0.25,) * 3, resize=20)
        return load_backbone(f"onnx:{path}", layer="output", overrides=overrides)

    return make
