import pytest
from PIL import Image

from tle.errors import OutputError
from tle.finetuning.curves_plot import plot_curves


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_training_becomes_a_picture(train, fit, suffix, tmp_path):
    result = train(init=fit(), epochs=2, unfreeze_schedule=True, freeze=("stem",))
    path = tmp_path / f"curves{suffix}"
    plot_curves(result.training, result.lr, path)
    if suffix == ".png":
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    elif suffix == ".svg":
        assert "<svg" in path.read_text()
    else:
        assert path.read_bytes().startswith(b"%PDF")


def test_a_training_without_validation_is_drawn_too(train, photos, tmp_path):
    for file in (photos / "val").rglob("*.jpg"):
        file.unlink()
    result = train(val_fraction=0.0, epochs=1)
    plot_curves(result.training, result.lr, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(OutputError, match="cannot write"):
        plot_curves(result.training, result.lr, tmp_path / "missing" / "curves.png")
