"""Cross-entropy in place against its float64 definition: on the CPU, the Triton kernels interpreted, and on CUDA."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from tle.kernels import softmax_xent
from tle.kernels.softmax_xent import (
    sigmoid_xent_,
    sigmoid_xent_ref,
    softmax_xent_,
    softmax_xent_ref,
    xent_bytes,
)

# Relative error, by dtype of what comes out: residuals of float32 logits, and float64 sums of float32 losses. Each grows
# with the rounding of z_k - z_y, half a unit in the last place of its size.
TOLERANCES = {np.float32: 2e-6, np.float64: 2e-7}
ULP = 2.0**-23
SMALLEST = 1e-30  # below, exp(d) may run out of float32

# Name: (N, L, K), spread of the logits, and which weights.
SOFTMAX = {
    "no rows": ((0, 2, 3), 1, None),
    "no problems": ((4, 0, 3), 1, None),
    "one of each": ((1, 1, 1), 1, None),
    "one class": ((5, 3, 1), 5, "row"),
    "two classes": ((33, 3, 2), 5, None),
    "odd": ((101, 3, 7), 3, "row"),
    "weights of problems": ((101, 3, 7), 3, "problem"),
    "confident": ((60, 2, 10), 30, "row"),
    "huge": ((40, 2, 10), 3000, None),
    "many problems": ((70, 45, 10), 4, "row"),
    "many classes": ((9, 2, 1000), 10, None),
    "more than a block": ((3, 2, 2049), 20, "problem"),
    "several blocks": ((3, 1, 5000), 60, None),
}
SIGMOID = {
    "no rows": ((0, 2), 1, None, "shared"),
    "one": ((1, 1), 1, None, "shared"),
    "shared": ((333, 7), 5, "row", "shared"),
    "own": ((333, 7), 5, "problem", "own"),
    "confident": ((500, 1), 40, None, "shared"),
    "huge": ((50, 3), 3000, "row", "own"),
}


def weights_of(rng, kind, n, problems):
    shape = {None: None, "row": (n,), "problem": (n, problems)}[kind]
    return None if shape is None else (rng.random(shape) * (rng.random(shape) > 0.2)).astype(np.float32)


def softmax_case(name):
    (n, problems, classes), spread, weight = SOFTMAX[name]
    rng = np.random.default_rng(sorted(SOFTMAX).index(name))
    logits = (rng.normal(size=(n, problems, classes)) * spread).astype(np.float32)
    return logits, rng.integers(0, classes, n), weights_of(rng, weight, n, problems)


def sigmoid_case(name):
    (n, problems), spread, weight, own = SIGMOID[name]
    rng = np.random.default_rng(sorted(SIGMOID).index(name))
    logits = (rng.normal(size=(n, problems)) * spread).astype(np.float32)
    targets = rng.integers(0, 2, (n, problems) if own == "own" else n).astype(np.uint8)
    return logits, targets, weights_of(rng, weight, n, problems)


def special_case():
    """Logits of one problem that are not finite beside two of others that are; -inf is a class that cannot be."""
    logits = np.ones((4, 4, 3), np.float32)
    logits[1, 1, 0], logits[2, 2, 1], logits[:, 3, 2] = np.nan, np.inf, -np.inf
    return logits, np.array([0, 1, 0, 1]), None


def separable_case():
    """Losses from 1e-6 to 1e-26."""
    logits = np.zeros((5, 1, 3), np.float32)
    logits[:, 0, 1] = [15, 20, 30, 50, 60]
    return logits, np.ones(5, np.int64), None


def all_jobs():
    jobs = {f"softmax {name}": softmax_case(name) for name in SOFTMAX}
    jobs |= {f"sigmoid {name}": sigmoid_case(name) for name in SIGMOID}
    return jobs | {"softmax special": special_case(), "softmax separable": separable_case()}


# Interpreted kernels need TRITON_INTERPRET when triton is first imported, and must leave this process as it was.
INTERPRETED = """
import sys, torch
from tle.kernels.softmax_xent_triton import sigmoid_xent_triton_, softmax_xent_triton_
jobs = torch.load(sys.argv[1])
for name, (logits, truth, weight) in jobs.items():
    function = softmax_xent_triton_ if name.startswith("softmax") else sigmoid_xent_triton_
    jobs[name] = (logits, function(logits, truth, weight))
torch.save(jobs, sys.argv[2])
"""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def to_tensor(array, device="cpu"):
    return None if array is None else torch.from_numpy(array).to(device)


@pytest.fixture(
    scope="module",
    params=[
        "arrays",
        "tensors",
        pytest.param("interpreted", marks=needs_triton),
        pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda]),
    ],
)
def results(request, tmp_path_factory, run_python):
    """(residuals, losses) of all jobs by one implementation, as arrays."""
    jobs = all_jobs()
    functions = {name: softmax_xent_ if name.startswith("softmax") else sigmoid_xent_ for name in jobs}
    if request.param == "arrays":
        return {name: (job[0], functions[name](*job)) for name, job in jobs.items()}
    device = "cuda" if request.param == "cuda" else "cpu"
    tensors = {name: tuple(to_tensor(array, device) for array in job) for name, job in jobs.items()}
    if request.param == "interpreted":
        folder = tmp_path_factory.mktemp("xent")
        torch.save(tensors, folder / "jobs.pt")
        run_python(INTERPRETED, folder / "jobs.pt", folder / "results.pt", interpret=True)
        done = torch.load(folder / "results.pt")
    else:
        done = {name: (job[0], functions[name](*job)) for name, job in tensors.items()}
    return {name: tuple(tensor.cpu().numpy() for tensor in pair) for name, pair in done.items()}


def check(got, want, distance):
    """Residuals and losses within the rounding that `distance`, the size of the differences of logits, allows."""
    (residual, loss), (residual_ref, loss_ref) = got, want
    assert residual.dtype == np.float32
    assert loss.dtype == np.float64
    assert loss.shape == loss_ref.shape
    allowed = (TOLERANCES[np.float32] + ULP * distance) * np.abs(residual_ref) + SMALLEST
    assert (np.abs(residual - residual_ref) <= allowed).all()
    np.testing.assert_allclose(loss, loss_ref, rtol=TOLERANCES[np.float64] + ULP * 20, atol=SMALLEST)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_is_the_definition(results, name):
    logits, labels, weight = softmax_case(name)
    distance = np.ptp(logits, axis=2, keepdims=True).astype(np.float64) if logits.size else 0.0
    check(results[f"softmax {name}"], softmax_xent_ref(logits, labels, weight), distance)


@pytest.mark.parametrize("name", SIGMOID)
def test_sigmoid_is_the_definition(results, name):
    logits, targets, weight = sigmoid_case(name)
    check(results[f"sigmoid {name}"], sigmoid_xent_ref(logits, targets, weight), np.abs(logits).astype(np.float64))


def test_tiny_losses_and_residuals_keep_their_digits(results):
    residual, loss = results["softmax separable"]
    margins = np.array([15.0, 20, 30, 50, 60])
    np.testing.assert_allclose(residual[:, 0, 1], -2 * np.exp(-margins) / (1 + 2 * np.exp(-margins)), rtol=1e-5)
    np.testing.assert_allclose(residual[:, 0, 0] * 2, -residual[:, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(loss, np.log1p(2 * np.exp(-margins)).sum(), rtol=1e-5)


def test_what_is_not_finite_stays_in_its_problem(results):
    residual, loss = results["softmax special"]
    np.testing.assert_allclose(loss[[0, 3]], [4 * np.log(3), 4 * np.log(2)], rtol=1e-6)
    assert np.isnan(loss[1:3]).all()
    assert np.isfinite(residual[:, [0, 3]]).all()
    assert np.isnan(residual[1, 1]).any()
    assert not residual[:, 3, 2].any()


def test_the_references_are_torch_in_float64():
    logits, labels, weight = softmax_case("weights of problems")
    z = torch.from_numpy(logits).double().requires_grad_()
    truth = torch.from_numpy(labels)[:, None].expand(-1, z.shape[1])
    losses = torch.nn.functional.cross_entropy(z.movedim(2, 1), truth, reduction="none") * torch.from_numpy(weight)
    losses.sum().backward()
    residual, loss = softmax_xent_ref(logits, labels, weight)
    np.testing.assert_allclose(residual, z.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(loss, losses.detach().sum(dim=0).numpy(), rtol=1e-12)

    logits, targets, weight = sigmoid_case("own")
    z = torch.from_numpy(logits).double().requires_grad_()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        z, torch.from_numpy(targets).double(), reduction="none"
    )
    losses = losses * torch.from_numpy(weight)
    losses.sum().backward()
    residual, loss = sigmoid_xent_ref(logits, targets, weight)
    np.testing.assert_allclose(residual, z.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(loss, losses.detach().sum(dim=0).numpy(), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_blocks_change_nothing_but_the_order_of_the_sum(monkeypatch, block):
    logits, labels, weight = softmax_case("many problems")
    whole, part = logits.copy(), logits.copy()
    want = softmax_xent_(whole, labels, weight)
    monkeypatch.setattr(softmax_xent, "BLOCK_VALUES", block)
    np.testing.assert_allclose(softmax_xent_(part, labels, weight), want, rtol=1e-12)
    np.testing.assert_allclose(part, whole, rtol=1e-6)  # the sum over classes is a product, of another shape


def test_stated_bytes():
    assert xent_bytes(20_000 * 45 * 10) == 2 * 4 * 20_000 * 45 * 10


def test_refusals():
    logits, labels = np.zeros((4, 2, 3), np.float32), np.zeros(4, np.int64)
    for bad in (logits.astype(np.float64), logits.transpose(1, 0, 2), logits[:, :, ::2]):
        with pytest.raises(ValueError, match="expected logits float32, C-contiguous, got"):
            softmax_xent_(bad, labels)
    with pytest.raises(ValueError, match=r"expected logits \(N, L, K\), got \(4, 3\)"):
        softmax_xent_(logits[:, 0], labels)
    with pytest.raises(ValueError, match=r"expected labels \(4,\) int64, got \(4,\) int32"):
        softmax_xent_(logits, labels.astype(np.int32))
    with pytest.raises(ValueError, match="expected labels from 0 to 2, got 0 to 3"):
        softmax_xent_(logits, np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"expected weight float32 \(4,\) or \(4, 2\), got float32 \(2,\)"):
        softmax_xent_(logits, labels, np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"expected logits \(N, L\), got \(4, 2, 3\)"):
        sigmoid_xent_(logits, labels)
    with pytest.raises(ValueError, match=r"expected targets \(4,\) or \(4, 2\), got \(3,\)"):
        sigmoid_xent_(logits[:, :, 0].copy(), labels[:3])
    with pytest.raises(ValueError, match="expected targets of 0 and 1"):
        sigmoid_xent_(logits[:, :, 0].copy(), labels + 0.5)
    with pytest.raises(ValueError, match="cuda or cpu, got meta"):
        softmax_xent_(torch.zeros((4, 2, 3), device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    with pytest.raises(ValueError, match="expected labels and weight on meta"):
        softmax_xent_(torch.zeros((4, 2, 3), device="meta"), torch.zeros(4, dtype=torch.int64))
    assert not logits.any()


def test_the_module_loads_neither_torch_nor_triton(run_python):
    code = "import sys, tle.kernels.softmax_xent; print(sorted({'torch', 'triton'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


# The interpreter takes types that the compiler refuses; compiling needs no GPU.
COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tle.kernels import softmax_xent_triton as kernels

def compile(kernel, types, **constants):
    signature = dict(zip(kernel.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]

for weighted, one in ((False, True), (True, False)):
    types = ["*fp32", "*i64", "*fp32", "*fp32", *["i32"] * 5]
    assert compile(kernels._softmax, types, HAS_WEIGHT=weighted, ONE_BLOCK=one, BLOCK_ROWS=2, BLOCK_CLASSES=1024)
    for target in ("*u8", "*i64", "*fp32"):
        types = ["*fp32", target, "*fp32", "*fp32", *["i32"] * 6]
        assert compile(kernels._sigmoid, types, HAS_WEIGHT=weighted, BLOCK_ROWS=kernels.BLOCK_VALUES)
"""


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux")
def test_the_kernels_compile_for_cuda(monkeypatch, tmp_path, run_python):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run_python(COMPILED)


@needs_triton
def test_the_kernels_refuse_logits_on_the_cpu(run_python):
    code = """
import torch
from tle.kernels.softmax_xent_triton import softmax_xent_triton_
try:
    softmax_xent_triton_(torch.zeros((2, 2, 3)), torch.zeros(2, dtype=torch.int64))
except ValueError as error:
    print(error)
"""
    assert "expected logits on cuda, got cpu" in run_python(code)
