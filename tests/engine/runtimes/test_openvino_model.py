from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tle.errors import RuntimeChoiceError
from tle.runtimes.plan import Plan, accelerated
from tle.runtimes.runtime import open_runtime

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


class Eigenvalues(torch.nn.Module):
    """Something that OpenVINO does not know."""

    def forward(self, x):
        return torch.linalg.eigvals(x[:, 0, :3, :3]).real


def plan(precision, **options):
    return Plan(runtime="openvino", precision=precision, **options)


# Without VNNI products of int8 are added up in 16 bits, and saturate.
INT8 = 0.98 if accelerated("int8", "cpu") else 0.9


@pytest.mark.parametrize(("precision", "least"), [("float32", None), ("bfloat16", 0.999), ("int8", INT8)])
def test_features_are_those_of_the_reference(tiny, check_runtime, precision, least, capfd):
    runtime = check_runtime(tiny, plan(precision, batch_size=4, replicas=2), least)
    assert runtime.batch == 4
    assert runtime.description.startswith("openvino 20")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch", ["b", 2])
def test_an_onnx_file_runs_at_its_own_batch(make_onnx_backbone, check_runtime, batch):
    runtime = check_runtime(make_onnx_backbone(batch), plan("float32", batch_size=3))
    assert runtime.batch == (3 if batch == "b" else 2)


def test_what_cannot_be_converted_is_one_line(make_backbone, capfd):
    with pytest.raises(RuntimeChoiceError, match="OpenVINO cannot run own:Net .*another --runtime") as caught:
        open_runtime(make_backbone(Eigenvalues(), 3), plan("float32"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_batch_that_does_not_run_is_one_line(tiny):
    runtime = open_runtime(tiny, plan("float32", batch_size=2))
    with pytest.raises(RuntimeChoiceError, match="OpenVINO failed on a batch of 2") as caught:
        runtime(np.zeros((2, 17, 16, 3), np.uint8))
    assert "\n" not in str(caught.value)
