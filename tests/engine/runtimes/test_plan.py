import pytest
import torch

from tle.errors import RuntimeChoiceError
from tle.runtimes import plan as plans
from tle.runtimes.plan import OFFERED, Plan, accelerated, check_offered, cpu_flags, missing_package, resolve_device
from tle.runtimes.runtime import open_runtime, reference_plan


@pytest.fixture
def no_openvino(monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: None)


def refusal(runtime, precision, device, backbone):
    with pytest.raises(RuntimeChoiceError) as caught:
        check_offered(runtime, precision, device, backbone)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "names"),
    [
        ("tensorflow", "float32", "cpu", ["tensorflow", "auto, torch, inductor, onnxruntime, openvino, tensorrt"]),
        ("torch", "float8", "cpu", ["float8", "auto, float32, tf32, bfloat16, float16, int8"]),
        ("tensorrt", "float32", "cpu", ["tensorrt", "cpu", "torch, inductor, onnxruntime, openvino"]),
        ("openvino", "auto", "cuda", ["openvino", "cuda", "torch, inductor, onnxruntime, tensorrt"]),
        ("torch", "int8", "cpu", ["torch on the cpu", "float32, bfloat16", "int8"]),
        ("torch", "float16", "cpu", ["torch on the cpu", "float32, bfloat16", "float16"]),
        ("onnxruntime", "bfloat16", "cpu", ["onnxruntime on the cpu", "float32, int8", "bfloat16"]),
        ("onnxruntime", "float16", "cuda", ["onnxruntime on the cuda", "float32, tf32"]),
        ("auto", "tf32", "cpu", ["tf32 is not offered on the cpu"]),
        ("auto", "float16", "cpu", ["float16 is not offered on the cpu"]),
        ("auto", "int8", "cuda", ["int8 is not offered on the cuda"]),
    ],
)
def test_what_does_not_go_together_is_one_line_with_what_does(tiny, runtime, precision, device, names):
    message = refusal(runtime, precision, device, tiny)
    assert all(name in message for name in names), message


def test_everything_on_the_list_and_auto_are_let_through(tiny):
    for device, offered in OFFERED.items():
        for runtime, precisions in offered.items():
            if missing_package(runtime):
                continue
            for precision in precisions:
                for asked in ((runtime, precision), ("auto", precision), (runtime, "auto"), ("auto", "auto")):
                    check_offered(*asked, device, tiny)


def test_an_onnx_file_is_not_run_by_torch(make_onnx_backbone):
    backbone = make_onnx_backbone()
    for runtime in ("torch", "inductor"):
        assert "--runtime onnxruntime or openvino" in refusal(runtime, "float32", "cpu", backbone)
    check_offered("onnxruntime", "float32", "cpu", backbone)
    assert reference_plan(backbone).runtime == "onnxruntime"


def test_a_missing_openvino_is_said_with_what_to_install(tiny, no_openvino):
    assert missing_package("openvino") == "openvino is not installed: pip install openvino"
    assert "pip install openvino" in refusal("openvino", "float32", "cpu", tiny)
    with pytest.raises(RuntimeChoiceError, match="pip install openvino"):
        open_runtime(tiny, Plan(runtime="openvino", precision="float32"))
    assert missing_package("torch") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_line():
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    with pytest.raises(RuntimeChoiceError, match="--device cuda needs a CUDA GPU.*tle doctor") as caught:
        resolve_device("cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_with_a_gpu_auto_is_the_gpu():
    assert resolve_device("auto") == resolve_device("cuda") == "cuda"
    assert accelerated("float16", "cuda")


def test_float32_is_always_in_silicon_and_the_rest_as_the_processor_says(monkeypatch):
    assert accelerated("float32", "cpu")
    monkeypatch.setattr(plans, "cpu_flags", lambda: frozenset({"sse2"}))
    assert not accelerated("bfloat16", "cpu")
    assert not accelerated("float16", "cpu")
    monkeypatch.setattr(plans, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert accelerated("bfloat16", "cpu")
    assert not accelerated("int8", "cpu")


def test_flags_of_this_processor_are_words():
    assert all(flag and flag.split() == [flag] for flag in cpu_flags())


def test_a_plan_has_a_name_and_the_reference_is_float32_on_the_cpu(tiny):
    assert Plan(runtime="openvino", precision="bfloat16").label == "openvino bfloat16"
    plan = reference_plan(tiny, replicas=3)
    assert (plan.runtime, plan.precision, plan.device, plan.replicas) == ("torch", "float32", "cpu", 3)
