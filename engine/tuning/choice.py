"""Which runtime, precision and batch size: chosen by measurement on the user's own pictures, and held to the reference.

    sample      some pictures, decoded exactly and as the run will decode them
    reference   their float32 features, eagerly, from the exact pixels: also the first rate known
    candidates  tried in order, while trying is cheap beside what the run will take
    choice      the least expected time, set-up included, of those whose features are near enough

Nothing is used that was not held against the reference on pictures of this very run. Rates are remembered
(`tle.tuning.memory`); nearness is looked at each time, since it depends on the pictures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.errors import RuntimeChoiceError
from tle.execution import AUTO, Execution
from tle.images import EXACT_DECODER, GPU_DECODER
from tle.runtimes.plan import Plan, check_offered, missing_package, resolve_device
from tle.runtimes.runtime import Runtime, open_runtime, reference_plan
from tle.sources import Source
from tle.tuning.candidates import BATCH_SIZE, OTHER_BATCH_SIZES, SETUP_S, candidate_plans
from tle.tuning.memory import ChoiceMemory
from tle.tuning.parity import Parity, compare_features
from tle.tuning.sample import Sample, take_sample
from tle.tuning.trial import MEASURE_S, Trial, measure, try_plan

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone

# Of the seconds that a run is expected to take, the share that may be spent on trying something faster.
_SHARE = 0.25
# Good pictures that everything is compared on.
SAMPLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a run is executed with, and why.

    Attributes:
        plan: runtime, precision, device, batch size, replicas.
        runtime: the runtime itself, ready.
        decoder: identity of the decoder.
        parity: its features against the reference's on a sample; None where it is the reference, or no picture was good.
        trials: everything that was tried now or remembered.
        tuning_s: seconds spent on choosing and comparing.
        notes: one-line facts that the user has to be told.
    """

    plan: Plan
    runtime: Runtime
    decoder: str
    parity: Parity | None
    trials: tuple[Trial, ...]
    tuning_s: float
    notes: tuple[str, ...]

    def describe(self) -> str:
        """What was chosen and why, in one line."""
        others = sorted(
            (trial for trial in self.trials if trial.refused is None and trial.plan != self.plan),
            key=lambda trial: -trial.images_per_s,
        )
        own = next((f"{trial.images_per_s:.1f}" for trial in self.trials if trial.plan == self.plan), "")
        against = ", ".join(_rate(trial) for trial in others)
        rates = f", the backbone alone at {own} images/s" if own else ""
        rates += f" against {against}" if own and against else ""
        near = f"; {self.parity}" if self.parity else ""
        return f"{self.plan.label}, batches of {self.plan.batch_size}{rates} (chosen in {self.tuning_s:.1f} s){near}"

    def record(self) -> dict[str, Any]:
        """What goes into a cache, JSON-able."""
        return {
            "runtime": self.runtime.description,
            "precision": self.plan.precision,
            "batch_size": self.plan.batch_size,
            "replicas": self.plan.replicas,
            "plan": {"runtime": self.plan.runtime, "device": self.plan.device},
            "tuning_s": round(self.tuning_s, 3),
            "parity": None if self.parity is None else self.parity.to_dict(),
        }


def _rate(trial: Trial) -> str:
    return f"{trial.plan.label} (batches of {trial.plan.batch_size}) {trial.images_per_s:.1f}"


def choose(
    backbone: "Backbone",
    source: Source,
    execution: Execution,
    *,
    decoder: str,
    n_images: int | None = None,
    exhaustive: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Choose how to run `backbone` over `source`, and make it ready.

    Args:
        backbone: what to run.
        source: the pictures of the cache; the sample is taken from all of them.
        execution: what the user fixed.
        decoder: the decoder that the run is to use; one whose features are not near enough is given up for the exact one.
        n_images: how many of them are to be run; None means all.
        exhaustive: try every candidate whatever it takes, and remember nothing of before: for benchmarks.
        say: told what is being done, a line at a time.

    Returns:
        The choice.

    Raises:
        RuntimeChoiceError: what the user fixed does not run, or its features are too far from the reference.
    """
    started = time.perf_counter()
    n_images = len(source) if n_images is None else n_images
    device, device_notes = _device(backbone, execution)
    check_offered(execution.runtime, execution.precision, device, backbone)
    if decoder == GPU_DECODER and device != "cuda":
        raise RuntimeChoiceError(
            "pictures decoded by nvJPEG (--gpu-decode, or a head fitted on such) need the backbone on a GPU: --device cuda"
        )
    replicas = 1 if device == "cuda" else execution.threads
    size = execution.batch_size or BATCH_SIZE[device]
    if execution.batch_size is None:  # a short run gives every replica its part
        size = max(1, min(size, -(-n_images // replicas)))
    if backbone.onnx is not None and backbone.onnx.batch is not None:
        size = backbone.onnx.batch  # less would be padded to it
    reference = replace(reference_plan(backbone, replicas=replicas), batch_size=size, device=device)
    candidates = candidate_plans(backbone, execution, reference)
    if not candidates:
        missing = missing_package("openvino")
        raise RuntimeChoiceError(
            f"nothing here runs {backbone.name} in {execution.precision}{f': {missing}' if missing else ''}"
        )
    if candidates == [reference] and decoder == EXACT_DECODER:
        return Choice(
            plan=reference,
            runtime=open_runtime(backbone, reference),
            decoder=decoder,
            parity=None,
            trials=(),
            tuning_s=time.perf_counter() - started,
            notes=device_notes,
        )
    quantized = any(plan.precision == "int8" for plan in candidates)
    sample = take_sample(
        source,
        backbone.preprocess,
        2 * SAMPLE if quantized else SAMPLE,
        decoder=decoder,
        max_pixels=execution.max_pixels,
        workers=execution.threads,
    )
    # The ranges of int8 come from other pictures than those that it is judged by, where there are enough.
    calibration = sample.part(1, 2).pixels if quantized and len(sample) > 1 else sample.pixels
    sample = sample.part(0, 2) if quantized and len(sample) > 1 else sample
    race = _Race(
        backbone=backbone,
        sample=sample,
        calibration=calibration if quantized else None,
        n_images=n_images,
        execution=execution,
        memory=ChoiceMemory(backbone, device=device, replicas=replicas),
        exhaustive=exhaustive,
        say=say,
        started=started,
    )
    choice = race.run(candidates, reference, decoder)
    return replace(choice, notes=(*device_notes, *choice.notes))


def _device(backbone: "Backbone", execution: Execution) -> tuple[str, tuple[str, ...]]:
    """Where to run: an ONNX file runs on a GPU only if ONNX Runtime can use it, whatever torch can."""
    device = resolve_device(execution.device)
    if device == "cpu" or backbone.module is not None or execution.device != AUTO:
        return device, ()
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return device, ()
    return "cpu", (
        "ONNX Runtime here cannot use the GPU, so the backbone runs on the CPU: pip install onnxruntime-gpu",
    )


@dataclass(slots=True, kw_only=True)
class _Race:
    """One choosing: what it has, and what it has found so far."""

    backbone: "Backbone"
    sample: Sample
    calibration: NDArray[np.uint8] | None
    n_images: int
    execution: Execution
    memory: ChoiceMemory
    exhaustive: bool
    say: Callable[[str], None]
    started: float
    trials: dict[Plan, Trial] = field(default_factory=dict)
    opened: dict[Plan, Runtime] = field(default_factory=dict)
    measured: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reference_rate: float = 0.0
    reference_nD: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def run(self, candidates: list[Plan], reference: Plan, decoder: str) -> Choice:
        """The choice among `candidates`."""
        if not len(self.sample):
            # Not one good picture: the run will say so of each. Nothing can be compared, so nothing else is used.
            plan = reference if reference in candidates else candidates[0]
            return self._choice(plan, open_runtime(self.backbone, plan, calibration=self.calibration), decoder, None)
        short = len(candidates) == 1 and not self.exhaustive  # nothing to choose: features are compared, rates are not
        runtime = open_runtime(self.backbone, reference)
        self.reference_nD, self.reference_rate = measure(runtime, self.sample.exact, reference, at_least_s=0.0)
        if reference in candidates:
            if not (short or self._brief()):  # as the others, without the warm-up of a first pass
                _, self.reference_rate = measure(runtime, self.sample.exact, reference, at_least_s=MEASURE_S)
            self.trials[reference] = Trial(plan=reference, setup_s=0.0, images_per_s=self.reference_rate)
            self.opened[reference] = runtime
        for plan in candidates:
            if plan == reference:
                continue
            known = None if self.exhaustive else self.memory.find(plan)
            needed = not self._usable()  # as with a runtime that the user fixed: tried whatever it takes
            if known is not None:
                known = replace(known, plan=replace(known.plan, batch_size=self._batch_size(known.plan, plan)))
                self.trials[known.plan] = known
            elif needed or self._affordable(plan):
                self._try(plan, at_least_s=0.0 if short or self._brief() else MEASURE_S)
        while True:
            best = self._best()
            if best is None:  # what was thought too costly to try may be all that is left
                labels = {trial.plan.label for trial in self.trials.values()}
                untried = [plan for plan in candidates if plan.label not in labels]
                if not untried:
                    return self._give_up(candidates, reference, decoder)
                self._try(untried[0], at_least_s=0.0)
                continue
            plan = best
            ready = plan in self.opened
            if ready and plan == reference and decoder != EXACT_DECODER and self.trials[plan].parity is None:
                self._try_decoder(plan)
                continue
            if not ready:  # remembered, or let go: its features are held against the reference now
                before = self.trials.pop(plan)
                self._try(plan, at_least_s=0.0)
                if not self.trials[plan].refused:
                    self.trials[plan] = replace(self.trials[plan], images_per_s=before.images_per_s)
                    break
                continue
            break
        fixed = self.execution.batch_size is not None or (self.backbone.onnx is not None and self.backbone.onnx.batch)
        if not (fixed or short):
            plan = self._refine(plan)
        if not fixed and reference.batch_size == BATCH_SIZE[reference.device]:  # else: of this run alone
            self.memory.save(self.measured)
        return self._choice(plan, self.opened[plan], decoder, self.trials[plan].parity)

    def _batch_size(self, known: Plan, wanted: Plan) -> int:
        """The remembered batch size, unless the user fixed one or the run is too short for it."""
        if self.execution.batch_size:
            return wanted.batch_size
        return max(1, min(known.batch_size, -(-self.n_images // wanted.replicas)))

    def _affordable(self, plan: Plan) -> bool:
        """Whether trying `plan` is cheap beside what the run takes with the best that is known."""
        if self.exhaustive:
            return True
        expected_s = min((trial.seconds(self.n_images) for trial in self._usable()), default=float("inf"))
        left_s = self.execution.tuning_limit_s - (time.perf_counter() - self.started)
        pass_s = len(self.sample) / self._fastest_rate()
        cost_s = SETUP_S[plan.runtime] + (pass_s if self._brief() else 2 * pass_s + MEASURE_S)
        return cost_s <= min(left_s, _SHARE * expected_s)

    def _brief(self) -> bool:
        """Whether the run is so short that even half a second of measuring counts."""
        return not self.exhaustive and self.n_images / self._fastest_rate() < 20

    def _fastest_rate(self) -> float:
        return max([self.reference_rate, *(trial.images_per_s for trial in self.trials.values())])

    def _usable(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.refused is None]

    def _best(self) -> Plan | None:
        """The plan of least expected time; what is ready has no set-up ahead of it."""
        usable = self._usable()
        if not usable:
            return None
        return min(
            usable,
            key=lambda trial: (
                self.n_images / trial.images_per_s + (0.0 if trial.plan in self.opened else trial.setup_s)
            ),
        ).plan

    def _try(self, plan: Plan, *, at_least_s: float) -> None:
        """Try a plan and keep what came of it."""
        self.say(f"trying {plan.label}, batches of {plan.batch_size}")
        trial, runtime = try_plan(
            self.backbone,
            plan,
            self.sample.pixels,
            self.reference_nD,
            min_cosine=self.execution.min_cosine,
            calibration=self.calibration,
            at_least_s=at_least_s,
        )
        self.trials[plan] = trial
        if at_least_s or trial.parity is None:  # a first pass alone includes the warm-up: not worth remembering
            self.measured.append(trial)
        if runtime is not None:
            self.opened[plan] = runtime
            best = self._best()  # others are let go: each holds a copy of the weights
            self.opened = {kept: opened for kept, opened in self.opened.items() if kept in (best, plan)}
        if trial.refused is not None:
            self.notes.append(f"{plan.label} is not used: {trial.refused}")

    def _try_decoder(self, reference: Plan) -> None:
        """Hold the reference on the run's own pixels against the reference on exact ones."""
        features_nD, _ = measure(self.opened[reference], self.sample.pixels, reference, at_least_s=0.0)
        parity = compare_features(self.reference_nD, features_nD)
        near = parity.min_cosine >= self.execution.min_cosine
        self.trials[reference] = replace(
            self.trials[reference], parity=parity, refused=None if near else f"{parity}, by the faster decoding alone"
        )

    def _give_up(self, candidates: list[Plan], reference: Plan, decoder: str) -> Choice:
        """Nothing may be used: decode exactly if that was never tried, else say why not."""
        if decoder != EXACT_DECODER:
            exact = _Race(
                backbone=self.backbone,
                sample=Sample(self.sample.exact, self.sample.exact),
                calibration=self.calibration,
                n_images=self.n_images,
                execution=self.execution,
                memory=self.memory,
                exhaustive=self.exhaustive,
                say=self.say,
                started=self.started,
            )
            choice = exact.run(candidates, reference, EXACT_DECODER)
            note = (
                "pictures are decoded exactly: features of the faster decoding are too far from those of the exact one"
            )
            return replace(choice, notes=(note, *choice.notes))
        reasons = "; ".join(f"{trial.plan.label}: {trial.refused}" for trial in self.trials.values() if trial.refused)
        raise RuntimeChoiceError(
            f"{reasons or 'nothing runs this backbone here'} (lower --min-cosine to accept it, or leave --precision and "
            "--runtime to auto)"
        )

    def _refine(self, plan: Plan) -> Plan:
        """Other batch sizes of the winner, where they can be afforded."""
        sizes = [size for size in OTHER_BATCH_SIZES[plan.device] if size * plan.replicas <= self.n_images]
        known = None if self.exhaustive else self.memory.find(plan)
        for size in sizes if known is None else []:
            other = replace(plan, batch_size=size)
            if self._affordable(other):
                self._try(other, at_least_s=MEASURE_S)
        best = self._best()
        return plan if best is None else best

    def _choice(self, plan: Plan, runtime: Runtime, decoder: str, parity: Parity | None) -> Choice:
        return Choice(
            plan=plan,
            runtime=runtime,
            decoder=decoder,
            parity=parity,
            trials=tuple(self.trials.values()),
            tuning_s=time.perf_counter() - self.started,
            notes=(*self.notes, *self.memory.notes),
        )
