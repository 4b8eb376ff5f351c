"""The decoder "nvjpeg/1": JPEGs decoded, resized and cropped on the GPU; all else on the CPU as by the fast decoder.

nvJPEG enlarges subsampled chroma by repetition where libjpeg-turbo interpolates, so its pixels differ from those of the
other decoders in colour edges. What that does to the features of a network is what the comparison before each run says;
a GPU decoder that is not near enough is refused like anything else.

Written for CUDA and covered by tests marked `gpu`; neither its speed nor its parity has been measured.

# B batch, H W height and width of the crop
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tle.errors import ImageError
from tle.images import FAST_DECODER, load
from tle.jpeg import read_header
from tle.preprocess import Preprocess
from tle.resampling import is_thin, resized_size

if TYPE_CHECKING:
    import torch

_INTERPOLATIONS = ("bilinear", "bicubic")
_EOI = b"\xff\xd9"


def decode_on_gpu(
    data: Sequence[bytes | None], out: "torch.Tensor", preprocess: Preprocess, *, max_pixels: int
) -> list[str | None]:
    """Decode pictures into a batch on the GPU.

    Args:
        data: bytes of up to B files; None for one that is to be passed over.
        out: uint8 (B, H, W, 3) on the GPU to write into; rows of bad pictures are undefined. On the CPU it works as well,
            by torchvision's decoder and the slow reference of the resize.
        preprocess: resize, crop and interpolation.
        max_pixels: pictures of more pixels are bad.

    Returns:
        Why a picture is bad, or None, for each of `data`.
    """
    import torch

    reasons: list[str | None] = [None] * len(data)
    on_gpu = [row for row, read in enumerate(data) if read is not None and _suits_gpu(read, preprocess, max_pixels)]
    failed = _decode_jpegs(data, on_gpu, out, preprocess) if on_gpu else []
    decoded = set(on_gpu) - set(failed)
    for row, read in enumerate(data):
        if read is None or row in decoded:
            continue
        try:
            pixels = load(read, preprocess, decoder=FAST_DECODER, max_pixels=max_pixels)
        except ImageError as error:
            reasons[row] = str(error)
        else:
            out[row].copy_(torch.from_numpy(pixels))
    return reasons


def _suits_gpu(data: bytes, preprocess: Preprocess, max_pixels: int) -> bool:
    """Whether a file is an upright JPEG of the usual kind that ends as it should: nvJPEG fills in what is missing."""
    header = read_header(data)
    if header is None or header.orientation != 1 or _EOI not in data[-64:]:
        return False
    size = resized_size(header.height, header.width, preprocess.resize)
    return (
        preprocess.interpolation in _INTERPOLATIONS
        and header.height * header.width <= max_pixels
        and not is_thin(header.height, header.width, size, preprocess.resize)
    )


def _decode_jpegs(
    data: Sequence[bytes | None], rows: list[int], out: "torch.Tensor", preprocess: Preprocess
) -> list[int]:
    """Decode `rows` of `data` with nvJPEG into `out`.

    Returns:
        The rows that nvJPEG refuses.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from tle.kernels.resize import centre_corner, pack_images, ragged_resize_crop

    encoded = [torch.frombuffer(bytearray(data[row] or b""), dtype=torch.uint8) for row in rows]
    try:
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=out.device)
    except RuntimeError:
        if len(rows) == 1:
            return rows
        # It does not say which: one by one, so that no picture depends on its neighbours.
        return [failed for row in rows for failed in _decode_jpegs(data, [row], out, preprocess)]
    images = [picture.permute(1, 2, 0).contiguous() for picture in decoded]
    resized_B2 = [resized_size(image.shape[0], image.shape[1], preprocess.resize) for image in images]
    corner_B2 = [centre_corner(size, preprocess.crop) for size in resized_B2]
    batch = pack_images(images, resized_B2, corner_B2)
    out[torch.tensor(rows, device=out.device)] = ragged_resize_crop(
        batch, preprocess.crop, interpolation=preprocess.interpolation
    )
    return []
