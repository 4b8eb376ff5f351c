from dataclasses import replace
from importlib.util import find_spec

import pytest
from PIL import Image

from tle import plotting
from tle.bench_plot import plot_bench
from tle.benchmark import BenchResult, Stage
from tle.errors import MissingPackageError, OutputError

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")

RESULT = BenchResult(
    backbone="torchvision/resnet18",
    runtime="torch 2, eager, float32, cpu",
    precision="float32",
    device="cpu",
    batch_size=8,
    threads=2,
    n_images=100,
    stages=(
        Stage(name="read", images_per_s=50_000.0, share=0.002, detail=""),
        Stage(name="decode", images_per_s=400.0, share=0.25, detail=""),
        Stage(name="model", images_per_s=134.0, share=0.748, detail=""),
    ),
    images_per_s=97.5,
    limit_images_per_s=100.0,
    efficiency=0.975,
    binding="model",
    gmac_per_image=1.8,
    peak_share=0.6,
    advice=(),
    trials=(),
    notes=(),
)


@needs_matplotlib
def test_a_png_is_a_picture_of_some_size(tmp_path):
    plot_bench(RESULT, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 600
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0xC0, 0x39, 0x2B), (0x7F, 0x8C, 0x8D), (0x29, 0x80, 0xB9)} <= colours  # what binds, the rest, end to end


@needs_matplotlib
@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_the_suffix_says_the_format(tmp_path, suffix, start):
    assert suffix.lower() in plotting.FORMATS
    path = tmp_path / f"p{suffix}"
    plot_bench(RESULT, path)
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@needs_matplotlib
@pytest.mark.parametrize("rate", [1e-3, 1e7])
def test_any_rate_is_drawn(tmp_path, rate):
    plot_bench(replace(RESULT, images_per_s=rate, limit_images_per_s=rate), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


@needs_matplotlib
def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot write") as caught:
        plot_bench(RESULT, tmp_path / "no" / "p.png")
    assert "\n" not in str(caught.value)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="pip install matplotlib"):
        plot_bench(RESULT, tmp_path / "p.png")
    assert not list(tmp_path.iterdir())
