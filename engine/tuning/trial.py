"""One way to run a backbone, tried on real pictures: does it run, how fast, and are these the same features?

# n pictures of the sample, B batch, D feature dim
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import Runtime, open_runtime
from tle.threads import one_torch_thread, torch_threads_kept
from tle.tuning.parity import Parity, compare_features

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone

# A rate is taken over passes of at least this long, where time allows: shorter ones vary by a tenth and more.
MEASURE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a plan.

    Attributes:
        plan: the plan.
        setup_s: seconds until it was ready; 0 where it did not get there.
        images_per_s: rate of the backbone alone, all replicas together; 0 where it did not run.
        parity: its features against the reference's; None where it did not run.
        refused: why it may not be used, in a line; None where it may.
    """

    plan: Plan
    setup_s: float
    images_per_s: float
    parity: Parity | None = None
    refused: str | None = None

    def seconds(self, n_images: int) -> float:
        """Expected seconds for a run of `n_images` that has to set it up."""
        return self.setup_s + n_images / self.images_per_s if self.images_per_s else float("inf")


def measure(
    runtime: Runtime, pixels: NDArray[np.uint8], plan: Plan, *, at_least_s: float = MEASURE_S
) -> tuple[NDArray[np.float32], float]:
    """Features of some pictures, and the rate with all replicas busy.

    Args:
        runtime: what to run.
        pixels: uint8 (n, H, W, 3), n >= 1.
        plan: its batch size and replicas.
        at_least_s: seconds to measure over after a first pass; 0 takes the first pass itself, warm-up included.

    Returns:
        float32 (n, D), and images/s.

    Raises:
        RuntimeChoiceError: it does not run.
    """
    n, size = len(pixels), plan.batch_size
    # Whole batches, and enough of them that no replica idles: pictures are repeated.
    n_batches = -(-n // size)
    n_batches += -n_batches % plan.replicas
    rows = np.arange(n_batches * size) % n
    batches = [np.ascontiguousarray(pixels[part]) for part in np.split(rows, n_batches)]
    with torch_threads_kept(), ThreadPoolExecutor(plan.replicas, "tle-measure", initializer=one_torch_thread) as pool:
        # CUDA graphs belong to the thread that they were recorded in, which is the one that will run them.
        every = map if plan.device == "cuda" else pool.map
        started = time.perf_counter()
        features_nD = np.concatenate(list(every(runtime, batches)))[:n]
        first_s = time.perf_counter() - started
        best_s, measured_s = first_s, 0.0
        while measured_s < at_least_s and first_s < 2 * at_least_s + 1:
            started = time.perf_counter()
            for _ in every(runtime, batches):
                pass
            taken_s = time.perf_counter() - started
            measured_s += taken_s
            best_s = min(best_s, taken_s)
    return features_nD, len(rows) / best_s


def try_plan(
    backbone: "Backbone",
    plan: Plan,
    pixels: NDArray[np.uint8],
    reference_nD: NDArray[np.float32],
    *,
    min_cosine: float,
    calibration: NDArray[np.uint8] | None = None,
    at_least_s: float = MEASURE_S,
) -> tuple[Trial, Runtime | None]:
    """Set a plan up, run it on the sample and hold it against the reference.

    Args:
        backbone: what to run.
        plan: how.
        pixels: uint8 (n, H, W, 3), decoded as in the run.
        reference_nD: float32 (n, D), the reference's features of the same pictures.
        min_cosine: below this the plan is refused.
        calibration: pictures for int8's ranges.
        at_least_s: as for `measure`.

    Returns:
        What became of it, and the runtime where it may be used. Nothing is raised where a plan does not run: the reason
        is in the trial.
    """
    started = time.perf_counter()
    try:
        runtime = open_runtime(backbone, plan, calibration=calibration)
        setup_s = time.perf_counter() - started
        features_nD, rate = measure(runtime, pixels, plan, at_least_s=at_least_s)
    except RuntimeChoiceError as error:
        return Trial(plan=plan, setup_s=0.0, images_per_s=0.0, refused=str(error)), None
    except Exception as error:  # noqa: BLE001 - it ran a user's network in a way that this may never have been run
        reason = f"{type(error).__name__}: {one_line(error)}"
        return Trial(plan=plan, setup_s=0.0, images_per_s=0.0, refused=reason), None
    parity = compare_features(reference_nD, features_nD)
    refused = None
    if not parity.min_cosine >= min_cosine:
        refused = f"{parity}, below --min-cosine {min_cosine:g}"
    trial = Trial(plan=plan, setup_s=setup_s, images_per_s=rate, parity=parity, refused=refused)
    return trial, runtime if refused is None else None
