"""Which ways to run a backbone there are to choose from, in which order they are tried, and what trying costs."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tle.execution import AUTO, Execution
from tle.runtimes.plan import OFFERED, Plan, accelerated, missing_package

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone

# Pictures a call. On a CPU a batch has to stay in the second-level cache: MobileNetV3-L in OpenVINO ran 664 images/s
# at 4, 598 at 8, 396 at 16 and 324 at 32; ResNet-18 was the same from 4 to 16. On a GPU: not measured.
BATCH_SIZE = {"cpu": 8, "cuda": 128}
OTHER_BATCH_SIZES = {"cpu": (4, 16), "cuda": (64, 256)}
# Seconds that setting a runtime up takes, roughly, seen for networks of 10 to 90 million parameters.
SETUP_S = {"torch": 0.3, "openvino": 3.0, "onnxruntime": 8.0, "inductor": 25.0, "tensorrt": 60.0}
# In the order in which they are tried: what promises most for the least set-up first.
_CANDIDATES = {
    "cpu": (
        ("torch", "bfloat16"),
        ("openvino", "bfloat16"),
        ("openvino", "float32"),
        ("onnxruntime", "float32"),
        ("inductor", "bfloat16"),
        ("inductor", "float32"),
    ),
    "cuda": (
        ("torch", "float16"),
        ("torch", "bfloat16"),
        ("torch", "tf32"),
        ("inductor", "float16"),
        ("inductor", "bfloat16"),
        ("onnxruntime", "float32"),
    ),
}


def candidate_plans(backbone: "Backbone", execution: Execution, reference: Plan) -> list[Plan]:
    """The plans that the user leaves open, in the order of trying; the reference itself last of all."""
    wanted_runtime, wanted_precision, device = execution.runtime, execution.precision, reference.device
    if AUTO not in (wanted_runtime, wanted_precision):
        return [replace(reference, runtime=wanted_runtime, precision=wanted_precision)]
    pairs = list(_CANDIDATES[device])
    # What auto leaves out on its own accord can still be asked for by half: by its runtime, or by its precision.
    pairs += [
        (runtime, precision)
        for runtime, precisions in OFFERED[device].items()
        for precision in precisions
        if (runtime, precision) not in pairs and (runtime == wanted_runtime or precision == wanted_precision)
    ]
    plans = [
        replace(reference, runtime=runtime, precision=precision)
        for runtime, precision in pairs
        if wanted_runtime in (AUTO, runtime)
        and (wanted_precision == precision or (wanted_precision == AUTO and precision != "int8"))
        and (wanted_precision != AUTO or accelerated(precision, device))
        and not (backbone.module is None and runtime in ("torch", "inductor"))
        and missing_package(runtime) is None
    ]
    plans = [plan for plan in plans if plan != reference]
    if wanted_runtime in (AUTO, reference.runtime) and wanted_precision in (AUTO, reference.precision):
        plans.append(reference)
    return plans
