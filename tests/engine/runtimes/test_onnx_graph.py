import logging

import onnx
import pytest
import torch

from tle.errors import RuntimeChoiceError
from tle.runtimes.onnx_graph import write_onnx
from tle.runtimes.plan import Plan

INT8 = Plan(runtime="onnxruntime", precision="int8", batch_size=4, replicas=2)
FLOAT32 = Plan(runtime="onnxruntime", precision="float32", batch_size=4, replicas=2)


class Branching(torch.nn.Module):
    def forward(self, x):
        y = x.mean((2, 3))
        return y if y.sum() > 0 else 2 * y


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def outputs(graph, operator):
    return {name for node in graph.node if node.op_type == operator for name in node.output}


@pytest.mark.parametrize(("plan", "least"), [(FLOAT32, None), (INT8, 0.98)], ids=["float32", "int8"])
def test_onnxruntime_makes_the_features_of_the_reference(tiny, check_runtime, plan, least, capfd):
    level = logging.getLogger().level
    runtime = check_runtime(tiny, plan, least)
    assert runtime.batch is None
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().level == level


@pytest.mark.parametrize("batch", ["b", 2])
@pytest.mark.parametrize(("plan", "least"), [(FLOAT32, None), (INT8, 0.98)], ids=["float32", "int8"])
def test_an_onnx_file_runs_whatever_its_batch(make_onnx_backbone, check_runtime, batch, plan, least):
    runtime = check_runtime(make_onnx_backbone(batch), plan, least)
    assert runtime.batch == (None if batch == "b" else 2)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_int8_is_calibrated_on_any_number_of_pictures(make_onnx_backbone, pictures, tmp_path, n):
    path = write_onnx(make_onnx_backbone(), INT8, tmp_path, pictures(n))
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(path)
    assert "QuantizeLinear" not in operators(write_onnx(make_onnx_backbone(), FLOAT32, tmp_path))


def test_int8_has_all_its_steps_between_0_and_6_where_activations_are_cut_there(make_backbone, pictures, tmp_path):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU6(), torch.nn.Conv2d(8, 4, 16 - 2), torch.nn.Flatten()
    )
    with torch.no_grad():
        module[0].weight *= 100  # before it is cut a map spans hundreds
    backbone = make_backbone(module, 4)
    path = write_onnx(backbone, INT8, tmp_path, pictures(16))
    assert "Clip" not in operators(path)
    graph = onnx.load(path).graph
    scales = {
        i.name: float(onnx.numpy_helper.to_array(i))
        for i in graph.initializer
        if i.name.endswith("_scale") and not i.dims
    }
    of_conv = [
        node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in outputs(graph, "Conv")
    ]
    assert any(scales[node.input[1]] == pytest.approx(6 / 255, rel=1e-3) for node in of_conv)


@pytest.mark.parametrize("n", [None, 0])
def test_int8_without_pictures_is_one_line(make_onnx_backbone, pictures, tmp_path, n):
    with pytest.raises(RuntimeChoiceError, match="int8 takes its ranges from your pictures, and none could be read"):
        write_onnx(make_onnx_backbone(), INT8, tmp_path, None if n is None else pictures(n))


def test_what_cannot_be_exported_is_one_line(make_backbone, tmp_path, capfd):
    with pytest.raises(RuntimeChoiceError, match="cannot be exported to ONNX .*--runtime torch") as caught:
        write_onnx(make_backbone(Branching(), 3), FLOAT32, tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
