"""A head behind an ONNX graph gives what the head gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tle.enums import Target
from tle.errors import HeadError
from tle.exporting.onnx_head import append_head, output_name
from tle.heads.affine import Affine, Link
from tle.heads.head import Head

D, C = 5, 3


def make_head(target=Target.CLASS, *, unit_rows=False, model=None):
    rng = np.random.default_rng(0)
    outputs = 1 if target is Target.REGRESSION else C
    affine = Affine(
        rng.normal(size=(outputs, D)).astype(np.float32),
        rng.normal(size=outputs).astype(np.float32),
        Link.of(target),
        unit_rows,
    )
    return Head(
        kind="logistic",
        target=target,
        classes=() if target is Target.REGRESSION else tuple("abc"),
        dim=D,
        fingerprint="f",
        spec={},
        fit={},
        fit_digests=np.zeros(0, np.uint64),
        model=model or affine,
    )


def graph(opset=17, input_name="tle_pixels", inner="x", batch="batch"):
    """Pixels to features: the first D values of a picture, less 100."""
    nodes = [
        helper.make_node("Cast", [input_name], [inner], to=TensorProto.FLOAT),
        helper.make_node("Flatten", [inner], ["flat"]),
        helper.make_node("Add", ["flat", "less"], ["features"]),
    ]
    less = onnx.numpy_helper.from_array(np.array(-100, np.float32), "less")
    pixels = helper.make_tensor_value_info(input_name, TensorProto.UINT8, [batch, 1, D, 1])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [pixels], [features], [less]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    return model


def run(model, pixels):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert given.name == "pixels"
    return output, session.run([output.name], {"pixels": pixels})[0]


@pytest.fixture
def pixels():
    values = np.random.default_rng(1).integers(0, 256, (7, 1, D, 1), np.uint8)
    values[3] = 100  # a row of zeros
    return values


@pytest.mark.parametrize("opset", [7, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("target", [Target.CLASS, Target.MULTILABEL, Target.REGRESSION])
def test_scores_are_those_of_the_head(pixels, opset, unit_rows, target):
    head = make_head(target, unit_rows=unit_rows)
    output, scores = run(append_head(graph(opset), head), pixels)
    expected = head.predict(pixels.reshape(7, D).astype(np.float32) - 100)
    np.testing.assert_allclose(scores, expected.reshape(7, -1), atol=2e-6, rtol=1e-5)
    assert output.name == output_name(target)
    assert output.shape == ["batch", 1 if target is Target.REGRESSION else C]


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_rows_of_any_size_are_brought_to_length_one(pixels, scale):
    model, head = graph(), make_head(unit_rows=True)
    model.graph.node.append(helper.make_node("Mul", ["features", "scale"], ["scaled"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    model.graph.output[0].name = "scaled"
    x_ND = (pixels.reshape(7, D).astype(np.float32) - 100) * np.float32(scale)
    np.testing.assert_allclose(run(append_head(model, head), pixels)[1], head.predict(x_ND), atol=1e-6)


@pytest.mark.parametrize("names", [("tle_pixels", "pixels"), ("image", "probabilities"), ("pixels", "x")])
def test_names_inside_of_someone_elses_graph_do_not_collide(pixels, names):
    head = make_head()
    _, scores = run(append_head(graph(17, *names), head), pixels)
    np.testing.assert_allclose(scores, head.predict(pixels.reshape(7, D).astype(np.float32) - 100), atol=1e-6)


def test_a_fixed_batch_stays_fixed(pixels):
    output, _ = run(append_head(graph(batch=7), make_head()), pixels)
    assert output.shape == [7, C]


def test_a_head_that_is_not_linear_is_refused_with_those_that_are():
    with pytest.raises(
        HeadError, match=r"a logistic head cannot be exported to a graph, only linear ones can \(logistic"
    ):
        append_head(graph(), make_head(model=object()))
