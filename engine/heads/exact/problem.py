"""From labels, weights and scikit-learn's C to what the solver takes, and back to coefficients.

# n rows, D feature dim, K classes, L values of C

scikit-learn's objective  C sum_i s_i loss_i + |W|^2 / 2  divided by C S, S = sum_i s_i, is the solver's with v_i = s_i / S
and lambda = 1 / (C S).

Two classes have one row of coefficients there. As a softmax of two rows u the optimum has u = -+w / 2, so |u|^2 is
|w|^2 / 2, and at 2 lambda both objectives are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.errors import HeadError, UsageError
from tle.heads.exact.certificate import certify
from tle.heads.exact.design import Design
from tle.heads.exact.device import fetch, library
from tle.heads.exact.newton import can_finish, finish, is_small, solve_small
from tle.heads.exact.objective import Targets
from tle.heads.exact.path import MAX_PASSES, Solution, has_few_rows, solve_labels, solve_path
from tle.heads.threads import blas_threads

# Numbers of the features up to which passes are in float64: they fit the caches, and float32 saves a fifth (1,199 x 1,280
# rows of 36 classes) but must be left for float64 where regularisation is very weak, for two to four times as many passes.
SMALL_VALUES = 2**22
# Multiply-adds of a pass up to which solutions are taken to the last digit whatever tolerance is asked for: it costs a few
# milliseconds, and makes them independent of the order of rows and of whether a row stands twice or weighs double.
TINY_PASS = 2**16
_LAST_DIGIT = 1e-16
# Rows that are held in memory, standardised, if they are no more than this.
RESIDENT_BYTES = 2**31
_SMALL_BATCH = 8
_LEAST_C = 1e-300
_ROUNDINGS = 2.0
_NOT_FINITE = "the fit gave weights that are not finite: the features may span too many orders of magnitude, scale them"


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Rows with labels, for any C.

    Attributes:
        design: the rows; all have weight.
        targets: their labels: classes 0 to K - 1, each of which occurs; or indicators, a column a label.
        total: S, the sum of the weights before they were divided by it.
        intercept: whether there is a free intercept.
        memory: what was measured of the rows.
    """

    design: Design
    targets: Targets
    total: float
    intercept: bool = True
    memory: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def is_binary(self) -> bool:
        """Whether coefficients are one row that stands for two."""
        return not self.targets.is_sigmoid and self.targets.outputs == 2

    @property
    def device(self) -> str:
        """Where the rows are worked on: cpu or cuda."""
        return "cpu" if self.design.tensor is None else str(self.design.tensor.device.type)

    @property
    def pass_size(self) -> int:
        """Multiply-adds of one product with all rows."""
        return len(self.design) * self.design.dim * self._columns

    @property
    def host_size(self) -> int:
        """Multiply-adds of the largest product of NumPy's in a step: none is large where the rows are elsewhere."""
        return self.pass_size if self.design.tensor is None else 0

    @property
    def _columns(self) -> int:
        return int(self.targets.labels.shape[1]) if self.targets.is_sigmoid else self.targets.outputs

    def strength(self, c: float) -> float:
        """The solver's lambda for C.

        Raises:
            UsageError: it cannot be told from 0 or from infinity.
        """
        weighed = c * self.total
        if not _LEAST_C < weighed < 1 / _LEAST_C:
            raise UsageError(
                f"C={c:g} times the sum of sample weights, {self.total:g}, is beyond what can be computed with"
            )
        return (2.0 if self.is_binary else 1.0) / weighed

    def solve(
        self, c_L: Sequence[float], *, tol: float, max_passes: int = MAX_PASSES, seed: int = 0, tiny: int = TINY_PASS
    ) -> Iterator[tuple[float, Solution]]:
        """Solve for every C, the smallest first.

        Args:
            c_L: values of C above 0; each is solved once.
            tol: relative gap that is asked for.
            max_passes: passes a C may take.
            seed: of the rows that the curvature is taken from.
            tiny: size of a pass up to which solutions are taken to the last digit.

        Yields:
            (C, solution); values that lie near each other are solved, and come, together.

        Raises:
            HeadError: a solution is not finite.
            UsageError: a C that is beyond any measure.
        """
        c_of = {self.strength(c): c for c in c_L}
        design = self.design
        size = (len(design), self.targets.outputs, design.dim)
        double = design.is_resident and design.dtype == np.float64
        small = double and is_small(*size)
        # What was solved for combinations of rows is certified anew on the rows: the change of basis has roundings of its own.
        reduced = len(design) < design.dim and (small or has_few_rows(len(design), design.dim))
        if small:
            stream = solve_small(
                design, self.targets, list(c_of), tol=tol, max_passes=max_passes, intercept=self.intercept
            )
        else:
            wanted = min(tol, _LAST_DIGIT) if self.pass_size <= tiny else tol
            stream = solve_path(
                design, self.targets, list(c_of), tol=wanted, max_passes=max_passes, intercept=self.intercept, seed=seed
            )
        # To set the threads takes 6 ms: often as long as a small problem.
        for some in _batches(stream, _SMALL_BATCH if small else 1, self.host_size):
            for found in some:
                anew = reduced
                if (
                    found.gap > tol * found.objective
                    and not small
                    and double
                    and found.passes < max_passes
                    and can_finish(*size)
                ):
                    with blas_threads(self.pass_size * self.targets.outputs):
                        found = finish(
                            design, self.targets, found, tol=tol, max_passes=max_passes, intercept=self.intercept
                        )
                    anew = len(design) < design.dim
                if anew:
                    found = self._certify(found)
                gap = found.gap + self.rounding(found)
                yield c_of[found.strength], replace(found, gap=gap, is_certified=gap <= tol * found.objective)

    def _certify(self, found: Solution) -> Solution:
        """The same with its objective, its intercepts and its gap taken from the rows themselves."""
        weight, bias, strength = found.weight_KD[None], found.bias_K[None], np.array([found.strength])
        proven = certify(self.design, self.targets, weight, bias, strength, intercept=self.intercept)
        value = float(proven.value_L[0])
        gap = max(0.0, value - float(proven.lower_L[0]))
        return replace(found, objective=value, gap=gap, bias_K=proven.bias_LK[0])

    def rounding(self, found: Solution) -> float:
        """What float64 can have made of an objective and its bound.

        A logit is rounded by some eps (|z|^T |w| + |b|), and a loss by that times 1 - p, which is at most the loss. It is
        next to nothing, save where features are far from 0 and logits are what two large numbers leave.
        """
        size = float((np.abs(found.weight_KD) @ self.largest()).sum() + np.abs(found.bias_K).sum())
        return _ROUNDINGS * float(np.finfo(np.float64).eps) * (1.0 + size) * found.objective

    def largest(self) -> NDArray[np.float64]:
        """The largest absolute value of each feature, (D,); measured when it is first asked for."""
        if "largest" not in self.memory:
            found_D = np.zeros(self.design.dim)
            for _, z_BD in self.design.blocks():
                xp = library(z_BD)
                (largest_D,) = fetch(xp.maximum(xp.amax(z_BD, axis=0), -xp.amin(z_BD, axis=0)))
                np.maximum(found_D, largest_D, out=found_D)
            self.memory["largest"] = found_D
        return self.memory["largest"]

    def coefficients(self, solution: Solution) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients and intercepts, centred over the classes; one row for two classes. Float64 (K, D), (K,)."""
        weight_KD, bias_K = solution.weight_KD, solution.bias_K
        if self.is_binary:
            return weight_KD[1:] - weight_KD[:1], bias_K[1:] - bias_K[:1]
        return weight_KD - weight_KD.mean(axis=0), bias_K - bias_K.mean()


def make_problem(
    features: NDArray[Any],
    labels_N: NDArray[np.int64],
    outputs: int,
    *,
    weight_N: NDArray[np.float64] | None = None,
    rows: NDArray[np.int64] | None = None,
    mean_D: NDArray[np.float64] | None = None,
    scale_D: NDArray[np.float64] | None = None,
    intercept: bool = True,
    double: bool = False,
    device: str = "cpu",
) -> Problem:
    """A problem of classes.

    Args:
        features: (N, D) floats, maybe memory-mapped.
        labels_N: (n,) int64 from 0 to `outputs` - 1, each of which has weight.
        outputs: K, at least 2.
        weight_N: (n,) weights above 0; None for 1.
        rows: (n,) rows of `features`, ascending; None for all.
        mean_D: taken from every row.
        scale_D: by which rows are then divided.
        intercept: whether there is a free intercept.
        double: make passes in float64 however large the problem is.
        device: cpu, or cuda for what touches all rows. Problems of at most `SMALL_VALUES` numbers and those of few rows
            are NumPy's whatever it is.

    Raises:
        UsageError: weights so different that the smallest are nothing beside the others.
        HeadError: the features do not fit on the device.
    """
    weight_N = np.ones(len(labels_N)) if weight_N is None else weight_N
    total = float(weight_N.sum())
    if not (weight_N / total > 0).all():
        raise UsageError(
            f"sample weights from {weight_N.min():g} to {weight_N.max():g} are more than numbers can tell apart: leave out "
            "the samples with the smallest"
        )
    targets = Targets(np.ascontiguousarray(labels_N, np.int64), weight_N / total, outputs)
    device = "cpu" if has_few_rows(len(labels_N), features.shape[1]) else device
    return Problem(_make_design(features, rows, mean_D, scale_D, double, device), targets, total, intercept)


def make_label_problem(
    features: NDArray[Any],
    labels_NL: NDArray[Any],
    *,
    rows: NDArray[np.int64] | None = None,
    mean_D: NDArray[np.float64] | None = None,
    scale_D: NDArray[np.float64] | None = None,
    device: str = "cpu",
) -> Problem:
    """A binary problem for each of the columns of `labels_NL`, neither of which is constant; see `make_problem`."""
    n = len(labels_NL)
    targets = Targets(np.ascontiguousarray(labels_NL, np.float32), np.full(n, 1.0 / n), 1)
    return Problem(_make_design(features, rows, mean_D, scale_D, False, device), targets, float(n))


def solve_all_labels(
    problem: Problem,
    c_L: Sequence[float],
    *,
    tol: float,
    max_passes: int = MAX_PASSES,
    seed: int = 0,
    tiny: int = TINY_PASS,
) -> Iterator[tuple[float, list[Solution]]]:
    """Solve all labels at once for every C, the smallest first, each from the one before."""
    start: Sequence[Solution] = ()
    wanted = min(tol, _LAST_DIGIT) if problem.pass_size <= tiny else tol
    for c in sorted(set(c_L)):
        with blas_threads(problem.host_size):
            start = solve_labels(
                problem.design, problem.targets, problem.strength(c), tol=wanted, max_passes=max_passes, seed=seed, start=start
            )  # fmt: skip
        gaps = [found.gap + problem.rounding(found) for found in start]
        yield (
            c,
            [replace(s, gap=gap, is_certified=gap <= tol * s.objective) for s, gap in zip(start, gaps, strict=True)],
        )


def _batches(stream: Iterator[Solution], size: int, multiply_adds: int) -> Iterator[list[Solution]]:
    """So many solutions at a time, finite ones, each batch with as many threads as it is worth."""
    while True:
        with blas_threads(multiply_adds):
            try:
                some = list(islice(stream, size))
            except np.linalg.LinAlgError as error:  # what a decomposition says of a matrix that is not finite
                raise HeadError(_NOT_FINITE) from error
            except RuntimeError as error:
                if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not have been imported
                    raise
                raise HeadError("the fit needs more memory than the device has free: take device=cpu") from error
        if not some:
            return
        for found in some:
            if not (
                np.isfinite(found.weight_KD).all() and np.isfinite([*found.bias_K, found.objective, found.gap]).all()
            ):
                raise HeadError(_NOT_FINITE)
        yield some


def _make_design(
    features: NDArray[Any],
    rows: NDArray[np.int64] | None,
    mean_D: NDArray[np.float64] | None,
    scale_D: NDArray[np.float64] | None,
    double: bool,
    device: str,
) -> Design:
    n = len(features) if rows is None else len(rows)
    values = n * int(features.shape[1])
    dtype = np.dtype(np.float64 if double or values <= SMALL_VALUES else np.float32)
    inverse_D = None if scale_D is None else 1.0 / scale_D
    design = Design(features, rows, mean_D, inverse_D, dtype)
    if device != "cpu" and values > SMALL_VALUES:
        return _place(design, device)
    return design.load() if values * dtype.itemsize <= RESIDENT_BYTES else design


def _place(design: Design, device: str) -> Design:
    """The design with its rows on a device, which it is not asked for again.

    Raises:
        HeadError: they do not fit there.
    """
    import torch

    try:
        return design.on_device(device)
    except torch.OutOfMemoryError as error:
        size = len(design) * design.dim * design.dtype.itemsize / 2**30
        raise HeadError(
            f"the features need {size:.1f} GiB on {device}, which has not so much free: take device=cpu"
        ) from error
