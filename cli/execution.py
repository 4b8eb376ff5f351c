"""Flags that every command which runs a backbone shares."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.errors import UsageError


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFlags:
    """How to run the backbone."""

    runtime: Annotated[
        Literal["auto", "torch", "inductor", "onnxruntime", "openvino", "tensorrt"],
        Parameter(help="What executes the backbone; auto takes what is fastest here, measured on your pictures."),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "tf32", "bfloat16", "float16", "int8"],
        Parameter(
            help="What the backbone computes in; auto takes the fastest that this machine has in silicon, but int8, which "
            "has to be asked for."
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Parameter(help="Where it computes; auto takes a GPU where there is one.")
    ] = "auto"
    batch_size: Annotated[
        str,
        Parameter(name=["--batch-size", "-b"], help="Pictures a call of the backbone, or auto."),
    ] = "auto"
    workers: Annotated[
        int | None,
        Parameter(
            name=["--workers", "-j"],
            help="Threads; each decodes and, on a CPU, runs the backbone on one core. By default one a core.",
        ),
    ] = None
    exact_decode: Annotated[
        bool,
        Parameter(help="Decode every JPEG in full and resize it as Pillow does, bit for bit, instead of the fast way."),
    ] = False
    gpu_decode: Annotated[bool, Parameter(help="Decode JPEGs on the GPU (nvJPEG), where the backbone runs there.")] = (
        False
    )
    max_pixels: Annotated[
        int, Parameter(help="Pictures with more pixels are recorded as failed, without being decoded.")
    ] = 178_956_970
    min_cosine: Annotated[
        float,
        Parameter(
            help="Smallest cosine to float32 features that anything faster may have on a sample of your pictures."
        ),
    ] = 0.999
    tuning_limit_s: Annotated[
        float,
        Parameter(
            help="Seconds that choosing may take; never more than a quarter of what the run is expected to take."
        ),
    ] = 20.0

    def options(self) -> "tle.Execution":
        """The same for the library.

        Raises:
            UsageError: a value that cannot be used.
        """
        return tle.Execution(
            runtime=self.runtime,
            precision=self.precision,
            device=self.device,
            batch_size=_batch_size(self.batch_size),
            workers=self.workers,
            exact_decode=self.exact_decode,
            gpu_decode=self.gpu_decode,
            max_pixels=self.max_pixels,
            min_cosine=self.min_cosine,
            tuning_limit_s=self.tuning_limit_s,
        )


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--batch-size takes a number of pictures from 1 on, or auto, got {text!r}")
    return int(text)
