"""Ragged resize and crop against Pillow and torchvision: the reference, the Triton kernels interpreted, and on CUDA."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from tle.kernels.resize import (
    MAX_RESIZED_SIDE,
    RaggedBatch,
    centre_corner,
    pack_images,
    ragged_resize_crop,
    resize_crop_bytes,
    source_ranges,
)

SCALE, SHIFT = (1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8)
# Relative and absolute error of a normalised value: half a unit in the last place, and a fused or separate sum.
TOLERANCES = {torch.float32: (1e-6, 1e-6), torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}

# Name: sizes, resized sizes, corners (None: centred), crop. The kernels' blocks are 8 rows and 128 lanes (42.7 columns).
CASES = {
    "none": ([], [], [], (4, 5)),
    "mixed": ([(1, 1), (7, 5), (33, 47), (64, 20)], [(16, 16), (9, 6), (20, 28), (51, 16)], None, (16, 15)),
    "shrunk": ([(101, 203)], [(20, 61)], None, (17, 59)),
    "unchanged": ([(13, 50)], [(13, 50)], None, (9, 43)),
    "padded": ([(10, 40), (3, 2)], [(10, 40), (6, 4)], None, (21, 16)),
    "upscaled": ([(5, 6)], [(40, 50)], None, (19, 50)),
    "thin": ([(3, 900), (700, 2)], [(20, 6000), (7000, 20)], None, (20, 20)),
    "far": ([(1, 70_001)], [(2, 100_000)], [(0, 99_985)], (2, 20)),  # beyond float32's exact positions, and the edge
    "crushed": ([(90, 120)], [(1, 1)], [(0, 0)], (1, 1)),
    "outside": ([(8, 9), (8, 9), (8, 9)], [(12, 14)] * 3, [(12, 0), (3, -20), (-5, 9)], (8, 8)),
    "thirds": ([(60, 60)], [(36, 42)], None, (36, 42)),  # many sums fall beside a half
}
JOBS = [(name, interpolation) for name in CASES for interpolation in ("bilinear", "bicubic")]


def batch_of(name):
    """The pictures of a case as noise, the batch, and its crop."""
    sizes, resized, corners, crop = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))
    images = [torch.from_numpy(rng.integers(0, 256, size=(*size, 3), dtype=np.uint8)) for size in sizes]
    corners = [centre_corner(size, crop) for size in resized] if corners is None else corners
    return images, pack_images(images, resized, corners), crop


def expected(image, resized, corner, crop, interpolation):
    """torchvision on a PIL image, one axis at a time, so that the order of the axes does not depend on Pillow's version."""
    mode = InterpolationMode(interpolation)
    picture = functional.resize(Image.fromarray(image.numpy()), [image.shape[0], resized[1]], interpolation=mode)
    picture = functional.resize(picture, list(resized), interpolation=mode)
    return torch.from_numpy(np.array(functional.crop(picture, *corner, *crop)))


def all_jobs():
    """Every case with every filter as pixels, and one in each floating dtype."""
    jobs = {f"{name} {how}": (*batch_of(name)[1:], {"interpolation": how}) for name, how in JOBS}
    for dtype in TOLERANCES:
        options = {"interpolation": "bicubic", "dtype": dtype, "scale_3": SCALE, "shift_3": SHIFT}
        jobs[f"normalised {dtype}"] = (*batch_of("padded")[1:], options)
    return jobs


# Interpreted kernels need TRITON_INTERPRET when triton is first imported, and must leave this process as it was.
INTERPRETED = """
import sys, torch
from tle.kernels.resize import RaggedBatch
from tle.kernels.resize_triton import ragged_resize_crop_triton
jobs = torch.load(sys.argv[1])
results = {
    name: ragged_resize_crop_triton(RaggedBatch(pixels, geometry.numpy()), crop, **options)
    for name, (pixels, geometry, crop, options) in jobs.items()
}
torch.save(results, sys.argv[2])
"""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(
    scope="module",
    params=[
        "reference",
        pytest.param("interpreted", marks=needs_triton),
        pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda]),
    ],
)
def results(request, tmp_path_factory, run_python):
    """Results of `all_jobs` by one implementation, on the CPU."""
    jobs = all_jobs()
    if request.param == "interpreted":
        folder = tmp_path_factory.mktemp("resize")
        packed = {
            name: (batch.pixels_N, torch.from_numpy(batch.geometry_B7), crop, options)
            for name, (batch, crop, options) in jobs.items()
        }
        torch.save(packed, folder / "jobs.pt")
        run_python(INTERPRETED, folder / "jobs.pt", folder / "results.pt", interpret=True)
        return torch.load(folder / "results.pt")
    device = "cuda" if request.param == "cuda" else "cpu"
    return {
        name: ragged_resize_crop(RaggedBatch(batch.pixels_N.to(device), batch.geometry_B7), crop, **options).cpu()
        for name, (batch, crop, options) in jobs.items()
    }


@pytest.mark.parametrize(("name", "interpolation"), JOBS)
def test_pixels_are_those_of_pillow_within_a_level(results, name, interpolation):
    images, batch, crop = batch_of(name)
    got = results[f"{name} {interpolation}"]
    assert got.dtype == torch.uint8
    assert got.shape == (len(images), *crop, 3)
    assert got.is_contiguous()
    for index, image in enumerate(images):
        resized, corner = batch.geometry_B7[index, 3:5].tolist(), batch.geometry_B7[index, 5:].tolist()
        want = expected(image, resized, corner, crop, interpolation)
        difference = (got[index].int() - want.int()).abs()
        assert difference.max() <= 1
        # One level, and only where a sum falls beside a half: at most 4 % of them, in "thirds".
        assert difference.float().mean() < 0.05


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_normalised_values_are_those_of_the_rounded_pixels(results, dtype):
    got, pixels = results[f"normalised {dtype}"], results["padded bicubic"]
    assert got.dtype == dtype
    assert got.shape == (len(pixels), 3, *pixels.shape[1:3])
    assert got.is_contiguous(memory_format=torch.channels_last)
    want = (pixels.double() * torch.tensor(SCALE).double() + torch.tensor(SHIFT).double()).permute(0, 3, 1, 2)
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    assert pixels[1, 0, 0].tolist() == [0, 0, 0]  # padding is black before it is normalised
    torch.testing.assert_close(got[1, :, 0, 0].double(), torch.tensor(SHIFT).double(), rtol=rtol, atol=atol)


def test_a_picture_outside_the_crop_is_black(results):
    pixels = results["outside bilinear"]
    assert not pixels[:2].any()
    assert pixels[2].any()


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="elsewhere torchvision resizes uint8 in floats, which does not cut an overshoot between the axes",
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resized"), [((33, 47), (20, 28)), ((64, 20), (51, 16)), ((9, 30), (24, 80))])
def test_pixels_are_those_of_torchvision_on_tensors_within_a_level(size, resized, interpolation):
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, size=(*size, 3), dtype=np.uint8))
    crop = (24, 24)
    batch = pack_images([image], [resized], [centre_corner(resized, crop)])
    got = ragged_resize_crop(batch, crop, interpolation=interpolation)[0]
    mode = InterpolationMode(interpolation)
    want = functional.resize(image.permute(2, 0, 1), list(resized), interpolation=mode, antialias=True)
    want = functional.center_crop(want, list(crop)).permute(1, 2, 0)
    difference = (got.int() - want.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.05


def test_pictures_may_lie_anywhere_in_the_buffer():
    image = torch.arange(4 * 5 * 3, dtype=torch.uint8)
    buffer = torch.cat([torch.full((7,), 255, dtype=torch.uint8), image])
    geometry = np.array([[7, 4, 5, 4, 5, 0, 0], [7, 4, 5, 2, 3, 0, 0]])  # the same picture twice, once made smaller
    got = ragged_resize_crop(RaggedBatch(buffer, geometry), (4, 5))
    assert torch.equal(got[0], image.reshape(4, 5, 3))
    assert not got[1, 2:].any()
    assert got[1, :2, :3].any()


@pytest.mark.parametrize("resized", [(5, 5), (6, 9), (7, 8), (4, 12), (12, 3), (3, 2)])
def test_centre_corner_is_torchvisions(resized):
    picture = torch.arange(resized[0] * resized[1], dtype=torch.uint8).reshape(1, *resized) + 1
    corner = centre_corner(resized, (5, 6))
    assert torch.equal(functional.crop(picture, *corner, 5, 6), functional.center_crop(picture, [5, 6]))


def test_stated_bytes_are_those_under_the_kept_pixels():
    # Halved, each sample reads two or three source pixels to either side: 0..5 for two samples, 13..18 from the eighth.
    geometry = np.array([[0, 30, 20, 15, 10, 0, 0], [0, 30, 20, 15, 10, 7, -1], [0, 30, 20, 15, 10, 99, 0]])
    batch = RaggedBatch(torch.zeros(1800, dtype=torch.uint8), geometry)
    rows, columns = source_ranges(batch, (2, 2), "bilinear")
    assert rows.tolist() == [[0, 5], [13, 19], [0, 0]]
    assert columns.tolist() == [[0, 5], [0, 3], [0, 0]]
    out = 3 * 2 * 2 * 3
    assert resize_crop_bytes(batch, (2, 2)) == 3 * (5 * 5 + 6 * 3) + out
    assert resize_crop_bytes(batch, (2, 2), itemsize=4) == 3 * (5 * 5 + 6 * 3) + 4 * out


def test_refusals_of_a_batch():
    pixels, good = torch.zeros(60, dtype=torch.uint8), [0, 4, 5, 4, 5, 0, 0]
    for index, value in [(1, 0), (2, 0), (3, 0), (4, MAX_RESIZED_SIDE + 1), (5, -MAX_RESIZED_SIDE - 1)]:
        bad = [*good[:index], value, *good[index + 1 :]]
        with pytest.raises(ValueError, match=rf"sides of 1 to .*got .*{value}.* for picture 1"):
            RaggedBatch(pixels, np.array([good, bad]))
    for offset in (1, -1):
        with pytest.raises(ValueError, match=f"4 x 5 x 3 bytes from {offset}, is not inside the buffer of 60"):
            RaggedBatch(pixels, np.array([[offset, *good[1:]]]))
    with pytest.raises(ValueError, match=r"uint8, contiguous, got \(60,\) torch.float32"):
        RaggedBatch(pixels.float(), np.array([good]))
    with pytest.raises(ValueError, match=r"\(B, 7\) int64, got \(1, 6\)"):
        RaggedBatch(pixels, np.array([good[:6]]))


def test_refusals_of_pictures():
    for shape, dtype in [((4, 5, 4), torch.uint8), ((4, 5), torch.uint8), ((0, 5, 3), torch.uint8), ((4, 5, 3), None)]:
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 with H, W >= 1, got .* for picture 0"):
            pack_images([torch.zeros(shape, dtype=dtype)], [(4, 5)], [(0, 0)])
    with pytest.raises(ValueError, match="each of 1 pictures, got 0 and 1"):
        pack_images([torch.zeros((4, 5, 3), dtype=torch.uint8)], [], [(0, 0)])


def test_refusals_of_a_request():
    batch = batch_of("padded")[1]
    with pytest.raises(ValueError, match=r"at least \(1, 1\), got \(0, 4\)"):
        ragged_resize_crop(batch, (0, 4))
    with pytest.raises(ValueError, match="bilinear or bicubic, got 'lanczos'"):
        ragged_resize_crop(batch, (4, 4), interpolation="lanczos")
    with pytest.raises(ValueError, match=r"float16, bfloat16, float32 or None for uint8, got torch.float64"):
        ragged_resize_crop(batch, (4, 4), dtype=torch.float64)
    with pytest.raises(ValueError, match="three scales"):
        ragged_resize_crop(batch, (4, 4), dtype=torch.float32, scale_3=(1.0,))
    with pytest.raises(ValueError, match="need a floating dtype"):
        ragged_resize_crop(batch, (4, 4), shift_3=SHIFT)
    with pytest.raises(ValueError, match="cuda or cpu, got meta"):
        ragged_resize_crop(RaggedBatch(batch.pixels_N.to("meta"), batch.geometry_B7), (4, 4))


def test_the_module_loads_neither_torch_nor_triton(run_python):
    code = "import sys, tle.kernels.resize; print(sorted({'torch', 'triton'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


# The interpreter takes types that the compiler refuses; compiling needs no GPU.
COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tle.kernels import resize_triton as kernels

def compile(kernel, types, **constants):
    names = kernel.arg_names
    signature = dict(zip(names, [*types, *["constexpr"] * len(constants)], strict=True))
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]

blocks = {"BLOCK_ROWS": kernels.BLOCK_ROWS, "BLOCK_LANES": kernels.BLOCK_LANES}
for cubic in (False, True):
    assert compile(kernels._across, ["*u8", "*i64", "*i64", "*u8", "i32", "i32"], CUBIC=cubic, **blocks)
for out in ("*u8", "*fp16", "*bf16", "*fp32"):
    types = ["*u8", "*i64", out, "i32", "i32", "i32", *["fp32"] * 6]
    assert compile(kernels._down, types, CUBIC=True, NORMALISE=out != "*u8", **blocks)
"""


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux")
def test_the_kernels_compile_for_cuda(monkeypatch, tmp_path, run_python):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run_python(COMPILED)


@needs_triton
def test_the_kernels_refuse_pixels_on_the_cpu(run_python):
    code = """
import torch
from tle.kernels.resize import pack_images
from tle.kernels.resize_triton import ragged_resize_crop_triton
try:
    ragged_resize_crop_triton(pack_images([torch.zeros((2, 2, 3), dtype=torch.uint8)], [(2, 2)], [(0, 0)]), (2, 2))
except ValueError as error:
    print(error)
"""
    assert "expected pixels on cuda, got cpu" in run_python(code)
