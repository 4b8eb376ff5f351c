"""How a run is to be executed: what the user may fix, and what is chosen by measurement where he does not."""

from dataclasses import dataclass

from tle.cores import usable_cores
from tle.errors import UsageError
from tle.images import DEFAULT_MAX_PIXELS, EXACT_DECODER, FAST_DECODER, GPU_DECODER

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Options that every command which runs a backbone shares.

    Attributes:
        runtime: torch, inductor, onnxruntime, openvino, tensorrt, or auto: the fastest that was measured.
        precision: float32, tf32, bfloat16, float16, int8, or auto: the fastest that this machine computes in silicon,
            float32, bfloat16 and on a GPU float16. int8 is only ever used when asked for.
        device: cpu, cuda, or auto: a GPU where there is one.
        batch_size: pictures a call of the backbone; None chooses by measurement.
        workers: threads; each decodes, and on a CPU also runs the backbone on one core. None takes one a core.
        exact_decode: decode every picture in full and resize it as Pillow does, bit for bit, instead of the fast way.
        gpu_decode: decode JPEGs on the GPU (nvJPEG), where the backbone runs there.
        max_pixels: pictures with more pixels are recorded as failed.
        min_cosine: smallest cosine to the float32 features, on a sample of the pictures, that anything faster may have.
        tuning_limit_s: seconds that choosing may take at most; it also never takes more than a quarter of what the run
            is expected to take. 0 measures nothing new.
    """

    runtime: str = AUTO
    precision: str = AUTO
    device: str = AUTO
    batch_size: int | None = None
    workers: int | None = None
    exact_decode: bool = False
    gpu_decode: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    min_cosine: float = 0.999
    tuning_limit_s: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a number out of its range.
        """
        for flag, value in (
            ("--batch-size", self.batch_size),
            ("--workers", self.workers),
            ("--max-pixels", self.max_pixels),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{flag} takes 1 or more, got {value}")
        if self.exact_decode and self.gpu_decode:
            raise UsageError("--exact-decode and --gpu-decode exclude each other: leave one of them out")
        if not -1 <= self.min_cosine <= 1:
            raise UsageError(f"--min-cosine takes a number from -1 to 1, got {self.min_cosine}")
        if not self.tuning_limit_s >= 0:
            raise UsageError(f"--tuning-limit-s takes 0 or more seconds, got {self.tuning_limit_s}")

    @property
    def decoder(self) -> str:
        """Identity of the decoder that is asked for."""
        if self.gpu_decode:
            return GPU_DECODER
        return EXACT_DECODER if self.exact_decode else FAST_DECODER

    @property
    def threads(self) -> int:
        """Threads to use: `workers`, or one a core."""
        return self.workers or usable_cores()
