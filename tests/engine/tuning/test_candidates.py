from dataclasses import replace

import pytest

from tle.execution import Execution
from tle.runtimes import plan as plans
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import reference_plan
from tle.tuning import candidates
from tle.tuning.candidates import candidate_plans


@pytest.fixture(params=[True, False], ids=["16 bits in silicon", "16 bits emulated"])
def silicon(request, monkeypatch):
    monkeypatch.setattr(candidates, "accelerated", lambda precision, device: request.param or precision == "float32")
    return request.param


@pytest.fixture
def openvino_there(monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: object())


def labels(backbone, device="cpu", **options):
    reference = replace(reference_plan(backbone, replicas=2), device=device, batch_size=5)
    found = candidate_plans(backbone, Execution(**options), reference)
    assert all((plan.batch_size, plan.replicas, plan.device) == (5, 2, device) for plan in found)
    assert len({plan.label for plan in found}) == len(found)
    return [plan.label for plan in found]


def test_auto_is_what_the_processor_computes_in_silicon_with_the_reference_last(tiny, silicon, openvino_there):
    found = labels(tiny)
    assert found[-1] == "torch float32"
    assert {"openvino float32", "onnxruntime float32", "inductor float32"} <= set(found)
    assert {label for label in found if "bfloat16" in label} == (
        {"torch bfloat16", "openvino bfloat16", "inductor bfloat16"} if silicon else set()
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_int8_and_tensorrt_have_to_be_asked_for(tiny, silicon, openvino_there, device):
    assert not [label for label in labels(tiny, device) if "int8" in label or "tensorrt" in label]
    assert labels(tiny, precision="int8") == ["onnxruntime int8", "openvino int8"]
    assert all(label.startswith("tensorrt ") for label in labels(tiny, "cuda", runtime="tensorrt"))
    assert "tensorrt float32" in labels(tiny, "cuda", runtime="tensorrt")


def test_a_precision_that_is_asked_for_is_tried_even_where_it_is_emulated(tiny, silicon, openvino_there):
    assert labels(tiny, precision="bfloat16") == ["torch bfloat16", "openvino bfloat16", "inductor bfloat16"]


def test_a_runtime_alone_leaves_its_precisions_open(tiny, silicon, openvino_there):
    assert labels(tiny, runtime="torch") == (["torch bfloat16"] if silicon else []) + ["torch float32"]
    assert labels(tiny, runtime="onnxruntime") == ["onnxruntime float32"]


def test_both_fixed_leave_nothing_open(tiny, silicon):
    assert labels(tiny, runtime="openvino", precision="int8") == ["openvino int8"]
    assert labels(tiny, runtime="torch", precision="float32") == ["torch float32"]


def test_without_openvino_auto_leaves_it_out(tiny, monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    assert not [label for label in labels(tiny) if "openvino" in label]
    assert labels(tiny, precision="int8") == ["onnxruntime int8"]


def test_an_onnx_file_is_left_to_those_that_read_it(tiny, silicon, openvino_there):
    file = replace(tiny, module=None)  # nothing here opens it
    found = labels(file)
    assert found[-1] == "onnxruntime float32"
    assert set(found) == {"openvino float32", "onnxruntime float32"} | ({"openvino bfloat16"} if silicon else set())
    assert labels(file, precision="bfloat16") == ["openvino bfloat16"]


def test_the_reference_is_left_out_where_it_is_not_wanted(tiny, silicon, openvino_there):
    reference = Plan(runtime="torch", precision="float32")
    for options in ({"runtime": "openvino"}, {"precision": "bfloat16"}, {"precision": "int8"}):
        assert reference.label not in labels(tiny, **options)
