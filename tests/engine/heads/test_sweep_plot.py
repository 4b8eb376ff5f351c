"""Any sweep becomes a picture: one setting, several, words, a single row, diverged ones."""

from importlib.util import find_spec

import pytest
from PIL import Image

from tle.errors import OutputError
from tle.heads.sweep_plot import main_setting, plot_sweep, varying_settings

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


def _row(accuracy, se=0.01, **settings):
    return {**settings, "accuracy": accuracy, "accuracy_se": se, "nll": 1 - accuracy, "nll_se": None}


def _choice(metric="accuracy", **settings):
    return {"metric": metric, "standard_error": "over pictures", "settings": settings}


SWEEPS = {
    "one": [_row(0.5 + 0.1 * i, C=10.0**i, **({"chosen": True} if i == 2 else {})) for i in range(4)],
    "two": [_row(0.5 + 0.01 * i * j, C=10.0**i, decay=j) for i in range(4) for j in range(3)],
    "words": [_row(0.5, C="auto"), _row(0.6, C=0.1), _row(0.7, C=1)],
    "single": [_row(0.5, C=1.0, chosen=True)],
    "diverged": [_row(0.5, C=1.0), {"C": 10.0, "diverged": True}],
    "no error": [_row(0.5, None, C=1.0), _row(0.6, None, C=2.0)],
    "no setting": [_row(0.5)],
    "zero": [_row(0.5, C=0.0), _row(0.6, C=100.0)],
}


@needs_matplotlib
@pytest.mark.parametrize("name", SWEEPS)
def test_any_sweep_is_drawn(tmp_path, name):
    settings = {key: 0 for key in ("C", "decay") if key in SWEEPS[name][0]}
    plot_sweep(SWEEPS[name], _choice(**settings), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert image.width > 600
    chosen = any(row.get("chosen") for row in SWEEPS[name])
    assert ((0xC0, 0x39, 0x2B) in colours) is chosen


@needs_matplotlib
@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_the_suffix_says_the_format(tmp_path, suffix, start):
    path = tmp_path / f"p{suffix}"
    plot_sweep(SWEEPS["one"], _choice("nll", C=1), path)
    assert path.read_bytes().startswith(start)


@needs_matplotlib
def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot write") as caught:
        plot_sweep(SWEEPS["one"], _choice(C=1), tmp_path / "no" / "p.png")
    assert "\n" not in str(caught.value)


def test_the_setting_with_the_most_values_is_the_axis():
    choice = _choice(decay=0, C=0)
    assert varying_settings(SWEEPS["two"], choice) == ["decay", "C"]
    assert main_setting(SWEEPS["two"], choice) == "C"
    assert main_setting(SWEEPS["no setting"], _choice()) == ""
