"""What is done with rows on a device is what NumPy does with them, piece by piece and as a whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tle.errors import HeadError
from tle.heads.exact import certificate, curvature, design
from tle.heads.exact.certificate import certify
from tle.heads.exact.design import Design
from tle.heads.exact.device import fetch, send
from tle.heads.exact.lbfgs import State
from tle.heads.exact.objective import Evaluation, Targets, evaluate
from tle.heads.exact.path import solve_labels, solve_path
from tle.heads.exact.problem import make_label_problem, make_problem, solve_all_labels
from tle.heads.exact.solver import Solver
from tle.heads.exact.trail import Trail

N, DIM, CLASSES, LABELS = 3000, 30, 4, 5


@pytest.fixture(params=[2**25, 2**12], ids=["one block", "blocks"])
def block_values(request, monkeypatch):
    monkeypatch.setattr(design, "_DEVICE_VALUES", request.param)


def make_rows(dtype="float32", spread=1.0):
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, CLASSES, N)
    z_ND = rng.normal(size=(CLASSES, DIM))[labels_N] + spread * rng.normal(size=(N, DIM))
    weight_N = rng.uniform(0.5, 2.0, N)
    return Design(z_ND.astype(dtype), None, None, None, np.dtype(dtype)), labels_N, weight_N / weight_N.sum()


def make_targets(kind, labels_N, weight_N):
    if kind == "classes":
        return Targets(labels_N, weight_N, CLASSES)
    noise_NL = np.random.default_rng(2).random((N, LABELS))
    return Targets((noise_NL < 0.3 + 0.4 * (labels_N[:, None] == 0)).astype(np.float32), weight_N, 1)


def make_point(kind, dtype):
    rng = np.random.default_rng(1)
    problems, outputs = (3, CLASSES) if kind == "classes" else (LABELS, 1)
    return rng.normal(size=(problems, outputs, DIM)).astype(dtype) / 5, rng.normal(size=(problems, outputs))


def test_what_is_sent_comes_back(device):
    arrays = [np.arange(3.0), np.arange(12).reshape(4, 3)[:, ::2], np.ones((2, 1), np.float32), np.zeros((0, 2))]
    tensors = send(torch.zeros(1, device=device), *arrays)
    assert {tensor.device.type for tensor in tensors} == {device}
    for array, back in zip(arrays, fetch(*tensors), strict=True):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert send(None, *arrays)[1] is fetch(*arrays)[1] is arrays[1]


@pytest.mark.usefixtures("block_values")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_pass_is_a_pass(device, kind, dtype):
    rows, labels_N, weight_N = make_rows(dtype)
    targets, (weight, bias) = make_targets(kind, labels_N, weight_N), make_point(kind, dtype)
    slopes = [np.empty(N), np.empty(N)]
    ours = evaluate(rows.on_device(device), targets, weight, bias, slopes[0])
    theirs = evaluate(rows, targets, weight, bias, slopes[1])
    single = dtype == "float32"
    assert ours.grad_LKD.dtype == theirs.grad_LKD.dtype == dtype
    np.testing.assert_allclose(ours.loss_L, theirs.loss_L, rtol=1e-6 if single else 1e-13)
    np.testing.assert_allclose(ours.grad_LKD, theirs.grad_LKD, atol=2e-6 if single else 1e-14)
    np.testing.assert_allclose(ours.grad_LK, theirs.grad_LK, atol=2e-6 if single else 1e-14)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-4 if single else 1e-11, atol=1e-9 if single else 1e-16)


def test_a_pass_in_float64_on_rows_in_float32(device):
    rows, labels_N, weight_N = make_rows()
    targets, (weight, bias) = make_targets("classes", labels_N, weight_N), make_point("classes", "float64")
    double = np.dtype(np.float64)
    ours = evaluate(replace(rows.on_device(device), dtype=double), targets, weight, bias)
    theirs = evaluate(replace(rows, dtype=double), targets, weight, bias)
    np.testing.assert_allclose(ours.loss_L, theirs.loss_L, rtol=1e-13)
    np.testing.assert_allclose(ours.grad_LKD, theirs.grad_LKD, atol=1e-14)


@pytest.mark.usefixtures("block_values")
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_certificate_says_the_same(device, monkeypatch, kind, intercept, kept):
    if not kept:
        monkeypatch.setattr(certificate, "_KEPT_LOGITS", 0)
    rows, labels_N, weight_N = make_rows()
    targets, (weight, bias) = make_targets(kind, labels_N, weight_N), make_point(kind, "float64")
    bias = bias * intercept
    given = (targets, weight / 5, bias, np.full(len(weight), 10.0))
    ours = certify(rows.on_device(device), *given, intercept=intercept)
    theirs = certify(rows, *given, intercept=intercept)
    assert theirs.lower_L.min() > 0
    single = intercept and not kept  # intercepts are then centred in float32
    np.testing.assert_allclose(ours.value_L, theirs.value_L, rtol=1e-9 if single else 1e-12)
    np.testing.assert_allclose(ours.lower_L, theirs.lower_L, rtol=1e-7 if single else 1e-10)
    np.testing.assert_allclose(ours.bias_LK, theirs.bias_LK, atol=1e-4 if single else 1e-10)


@pytest.mark.parametrize("stored", ["float16", "float32"])
@pytest.mark.parametrize("scaled", [True, False])
def test_rows_are_those_of_the_design_and_are_read_once(device, tmp_path, stored, scaled):
    rows, labels_N, weight_N = make_rows()
    np.save(tmp_path / "f.npy", rows.features.astype(stored))
    read = []

    class Mapped:
        """A file's rows, which counts those that are asked for."""

        features = np.load(tmp_path / "f.npy", mmap_mode="r")
        shape, dtype = features.shape, features.dtype

        def __len__(self):
            return N

        def __getitem__(self, at):
            found = self.features[at]
            read.append(len(found))
            return found

    mean_D, inverse_D = (np.full(DIM, 0.5), np.linspace(0.5, 2, DIM)) if scaled else (None, None)
    host = Design(Mapped.features, np.arange(0, N, 2) if scaled else None, mean_D, inverse_D, np.dtype(np.float32))
    ours = replace(host, features=Mapped()).on_device(device)
    assert sum(read) == len(host)
    positions = np.array([7, 3, len(host) - 1])
    np.testing.assert_array_equal(ours.load().features, host.load().features)
    np.testing.assert_array_equal(fetch(ours.take(positions))[0], host.take(positions))
    np.testing.assert_array_equal(ours.some(positions).load().features, host.take(positions))
    labels_N, weight_N = (labels_N[::2], 2 * weight_N[::2]) if scaled else (labels_N, weight_N)
    assert list(solve_path(ours, Targets(labels_N, weight_N, CLASSES), [1e-2, 1e-3]))[-1].is_certified
    assert sum(read) == len(host)


def _solvers(device, targets, rows):
    """One with its rows on the device, one of NumPy."""
    for some in (rows.on_device(device), rows):
        yield Solver(some, targets.beside(some.tensor), 1e-4, 100, True, np.random.default_rng(0))


@pytest.mark.parametrize("sample", [500, 5000])
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_rows_are_drawn_alike(device, monkeypatch, kind, sample):
    monkeypatch.setattr(curvature, "_SAMPLE", sample)
    rows, labels_N, weight_N = make_rows()
    weight, bias = make_point(kind, "float32")
    state = State(weight, bias, np.full(len(weight), 0.1), Evaluation(np.zeros(1), weight, bias), [])
    solvers = _solvers(device, make_targets(kind, labels_N, weight_N), rows)
    (ours, theirs) = (each.curvature._sample(state, 1) for each in solvers)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)
    np.testing.assert_allclose(fetch(ours[2])[0], theirs[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_the_decisive_rows_stand_for_the_same(device, kind):
    rows, labels_N, weight_N = make_rows()
    (weight, bias), chosen = make_point(kind, "float32"), np.arange(0, N, 7)
    problems = np.arange(len(weight))
    found = []
    for each in _solvers(device, make_targets(kind, labels_N, weight_N), rows):
        each._passes_L = np.zeros(len(weight))
        at = each.evaluate(problems, weight, bias)
        surrogate = each._surrogate(State(weight, bias, np.full(len(weight), 0.1), at, []), chosen)
        found.append(surrogate(problems[1:], 1.1 * weight[1:], bias[1:] + 0.1))
    np.testing.assert_allclose(found[0].loss_L, found[1].loss_L, rtol=1e-5)
    np.testing.assert_allclose(found[0].grad_LKD, found[1].grad_LKD, atol=5e-6)
    np.testing.assert_allclose(found[0].grad_LK, found[1].grad_LK, atol=5e-6)


def test_the_next_start_is_the_same(device):
    rows, labels_N, weight_N = make_rows()
    starts = []
    for some in (rows.on_device(device), rows):
        trail = Trail(some, Targets(labels_N, weight_N, CLASSES), intercept=True)
        for weight, bias in zip(*make_point("classes", "float32"), strict=True):
            trail.add(weight, bias)
        starts.append(trail.start(1e-2))
    np.testing.assert_allclose(starts[0][0], starts[1][0], atol=1e-3)
    np.testing.assert_allclose(starts[0][1], starts[1][1], atol=1e-3)


@pytest.mark.usefixtures("block_values")
@pytest.mark.parametrize(("dtype", "tol"), [("float32", 1e-4), ("float32", 1e-8), ("float64", 1e-8)])
def test_paths_are_the_same_and_every_claim_is_true(device, dtype, tol):
    """1e-8 is beyond float32: the last steps are made in float64 on rows in float32."""
    rows, labels_N, weight_N = make_rows(dtype, spread=0.4)  # near enough to separable for steps on decisive rows
    targets, strengths = Targets(labels_N, weight_N, CLASSES), [1e-1, 1e-2, 1e-3, 1e-5]
    exact = Design(rows.features.astype(np.float64), None, None, None, np.dtype(np.float64))
    best = list(solve_path(exact, targets, strengths, tol=1e-11))
    theirs = list(solve_path(rows, targets, strengths, tol=tol))
    ours = list(solve_path(rows.on_device(device), targets, strengths, tol=tol))
    for left, right, least in zip(ours, theirs, best, strict=True):
        assert left.is_certified
        assert left.objective == pytest.approx(right.objective, rel=tol)
        assert left.objective - left.gap <= least.objective
        assert left.objective - least.objective <= left.gap + 1e-12 * least.objective


def test_labels_are_solved_alike(device):
    rows, labels_N, weight_N = make_rows()
    targets = make_targets("labels", labels_N, weight_N)
    ours, theirs = (
        solve_labels(some, targets, 1e-3, start=solve_labels(some, targets, 1e-2))
        for some in (rows.on_device(device), rows)
    )
    for left, right in zip(ours, theirs, strict=True):
        assert left.is_certified
        assert left.objective == pytest.approx(right.objective, rel=1e-4)


def test_few_rows_are_solved_alike(device):
    rows, labels_N, weight_N = make_rows()
    few, targets = rows.some(np.arange(15)), Targets(labels_N[:15], weight_N[:15] / weight_N[:15].sum(), CLASSES)
    (ours,), (theirs,) = (list(solve_path(some, targets, [1e-2])) for some in (few.on_device(device), few))
    np.testing.assert_allclose(ours.weight_KD, theirs.weight_KD, atol=1e-10)


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_problems_give_the_same_coefficients(device, monkeypatch, classes):
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    rows, labels_N, _ = make_rows()
    labels_N = labels_N % classes
    theirs = make_problem(rows.features, labels_N, classes, mean_D=np.ones(DIM), scale_D=np.full(DIM, 2.0))
    ours = replace(theirs, design=theirs.design.on_device(device), memory={})
    assert (ours.device, theirs.device) == (device, "cpu")
    np.testing.assert_array_equal(ours.largest(), theirs.largest())
    for (c, left), (_, right) in zip(ours.solve([0.1, 1.0], tol=1e-7), theirs.solve([0.1, 1.0], tol=1e-7), strict=True):
        assert left.is_certified, c
        for one, other in zip(ours.coefficients(left), theirs.coefficients(right), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_large_problems_are_put_on_cuda_and_others_are_not(monkeypatch):
    rows, labels_N, weight_N = make_rows()
    indicators = make_targets("labels", labels_N, weight_N).labels
    assert make_problem(rows.features, labels_N, CLASSES, device="cuda").device == "cpu"
    assert make_label_problem(rows.features, indicators, device="cuda").device == "cpu"
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    assert make_problem(rows.features, labels_N, CLASSES, device="cuda").device == "cuda"
    assert make_problem(rows.features[:20], labels_N[:20], CLASSES, device="cuda").device == "cpu"
    problem = make_label_problem(rows.features, indicators, device="cuda")
    assert problem.device == "cuda"
    assert all(found.is_certified for _, some in solve_all_labels(problem, [0.1], tol=1e-4) for found in some)


def test_rows_that_do_not_fit_are_said(monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    monkeypatch.setattr(Design, "on_device", full)
    with pytest.raises(HeadError, match=r"the features need 0\.0 GiB on cuda, .*: take device=cpu"):
        make_problem(np.ones((40, 3), np.float32), np.arange(40) % 2, 2, device="cuda")
