"""How fast is extraction on this machine, with this network and these pictures, and what holds it back?

Each stage is measured alone with all threads, then all of them together, on the same pictures:

    read      bytes from storage, as often as the system's page cache lets them come from memory
    decode    bytes in memory to pixels
    copy      pixels to a GPU
    model     pixels in memory to features
    write     rows of a cache, synced
    end to end

On a CPU each thread does all of it in turn, so the limit is 1 / (1 / read + 1 / decode + 1 / model + 1 / write) images/s.
On a GPU the stages overlap, and the limit is the slowest of them.

# n pictures, B batch, D feature dim, M side of a square matrix
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tle import stages
from tle.errors import ImageError, UsageError
from tle.execution import Execution
from tle.pipeline import Decoding
from tle.runtimes.plan import missing_package
from tle.sources import open_source

if TYPE_CHECKING:
    from tle.backbones.load import PreprocessOverrides
    from tle.tuning.choice import Choice
    from tle.tuning.trial import Trial

DEFAULT_N = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage alone.

    Attributes:
        name: read, decode, copy, model or write.
        images_per_s: rate with all threads on it.
        share: part of the time of a picture that goes into it, 0 to 1; on a GPU its load while the slowest is at 1.
        detail: what the rate means, for people.
    """

    name: str
    images_per_s: float
    share: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What a benchmark found.

    Attributes:
        backbone: name of the network.
        runtime: what executed it.
        precision: what it computed in.
        device: "cpu" or "cuda".
        batch_size: pictures a call.
        threads: threads that decoded, and on a CPU computed.
        n_images: pictures measured on.
        stages: each alone, in the order of the pipeline.
        images_per_s: end to end, into a cache.
        limit_images_per_s: what the stages alone allow together.
        efficiency: the one over the other.
        binding: name of the stage that takes most.
        gmac_per_image: multiply-adds of the network a picture, in billions; None where they cannot be counted.
        peak_share: the network's multiply-adds a second over those of a large matrix product in the same precision on the
            same cores; None where either is unknown.
        advice: what would make it faster, a line each.
        trials: every runtime and precision that was tried, with its rate.
        notes: one-line facts that the user has to be told.
    """

    backbone: str
    runtime: str
    precision: str
    device: str
    batch_size: int
    threads: int
    n_images: int
    stages: tuple[Stage, ...]
    images_per_s: float
    limit_images_per_s: float
    efficiency: float
    binding: str
    gmac_per_image: float | None
    peak_share: float | None
    advice: tuple[str, ...]
    trials: "tuple[Trial, ...]"
    notes: tuple[str, ...]


def bench(
    images: str | Path,
    *,
    backbone: str,
    weights: str = "DEFAULT",
    layer: str | None = None,
    pool: str | None = None,
    overrides: "PreprocessOverrides | None" = None,
    execution: Execution | None = None,
    n_images: int = DEFAULT_N,
    say: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure extraction, stage by stage. What runtimes reached is remembered for later runs.

    Args:
        images: a folder or manifest.
        backbone: as for `tle.extract`.
        weights: as for `tle.extract`.
        layer: as for `tle.extract`.
        pool: as for `tle.extract`.
        overrides: as for `tle.extract`.
        execution: what is fixed; all that is left to measurement is tried in full.
        n_images: pictures to measure on, spread evenly over the source; all where it has fewer.
        say: told what is being done, a line at a time.

    Returns:
        The figures.

    Raises:
        TleError: bad input, in one line.
        ImageError: not one picture could be read.
    """
    from tle.backbones.load import load_backbone
    from tle.tuning.choice import choose

    if n_images < 1:
        raise UsageError(f"--n-images takes 1 or more, got {n_images}")
    execution = execution or Execution()
    source = open_source(images)
    loaded = load_backbone(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    some = source.spread(n_images)
    choice = choose(
        loaded,
        some,
        execution,
        decoder=execution.decoder,
        exhaustive=True,
        say=say,
    )
    on_gpu = choice.plan.device == "cuda"
    decoding = Decoding(preprocess=loaded.preprocess, decoder=choice.decoder, max_pixels=execution.max_pixels)
    data, pixels = stages.good_pictures(some, decoding)
    if not data:
        raise ImageError(f"not one of {len(some)} pictures of {images} can be read: there is nothing to measure")
    say(f"measuring each stage of {choice.plan.label}")
    threads = execution.threads
    found = [stages.read_stage(some, threads), stages.decode_stage(data, decoding, threads)]
    if on_gpu:
        found.append(stages.copy_stage(pixels))
    model = stages.model_stage(choice.runtime, pixels, choice.plan)
    found += [model, stages.write_stage(loaded.dim)]
    say("measuring all of it together")
    images_per_s = stages.end_to_end_rate(some, choice.runtime, decoding, choice.plan, loaded.dim, threads)
    limit, shares = _limit(found, overlapped=on_gpu)
    binding = max(shares, key=lambda name: shares[name])
    gmac = stages.gmac_per_image(loaded)
    peak = stages.peak_gmac_per_s(choice.plan)
    return BenchResult(
        backbone=loaded.name,
        runtime=choice.runtime.description,
        precision=choice.plan.precision,
        device=choice.plan.device,
        batch_size=choice.plan.batch_size,
        threads=threads,
        n_images=len(some),
        stages=tuple(
            Stage(name=stage.name, images_per_s=stage.images_per_s, share=shares[stage.name], detail=stage.detail)
            for stage in found
        ),
        images_per_s=images_per_s,
        limit_images_per_s=limit,
        efficiency=images_per_s / limit,
        binding=binding,
        gmac_per_image=gmac,
        peak_share=gmac * model.images_per_s / peak if gmac and peak else None,
        advice=_advice(binding, choice, execution),
        trials=choice.trials,
        notes=(*source.notes, *loaded.notes, *choice.notes),
    )


def _limit(found: "list[stages.Measured]", *, overlapped: bool) -> tuple[float, dict[str, float]]:
    """Images/s that the stages allow together, and the share of each."""
    seconds = {stage.name: 1 / stage.images_per_s for stage in found}
    total = max(seconds.values()) if overlapped else sum(seconds.values())
    return 1 / total, {name: taken / total for name, taken in seconds.items()}


def _advice(binding: str, choice: "Choice", execution: Execution) -> tuple[str, ...]:
    """What would make it faster, where something would."""
    lines = []
    if binding == "read":
        lines.append("storage binds: put the pictures on a faster or a local disk")
    elif binding == "decode":
        if execution.exact_decode:
            lines.append("decoding binds: leave --exact-decode out")
        else:
            lines.append(
                "decoding binds: store the pictures nearer to the size that the backbone takes, or use more cores"
            )
    elif binding == "write":
        lines.append("writing binds: put the cache on a faster disk, or pass --dtype float16")
    elif binding == "model":
        if choice.plan.device == "cpu" and (missing := missing_package("openvino")):
            lines.append(f"the backbone binds, and {missing} (often the fastest on x86)")
        if choice.plan.precision == "float32" and any(trial.parity and trial.refused for trial in choice.trials):
            lines.append("the backbone binds in float32: nothing that this machine computes faster was near enough")
        if choice.plan.device == "cpu" and choice.plan.precision not in ("int8", "float32"):
            lines.append(
                "the backbone binds: --precision int8 may double its rate, if its features pass your --min-cosine; otherwise "
                "a smaller backbone, more cores or a GPU"
            )
    return tuple(lines)
