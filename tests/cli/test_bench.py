"""What a user reads of a benchmark, and the one line for everything that goes wrong."""

import json
from importlib.util import find_spec

import pytest
from PIL import Image

from tle import stages
from tle.cli.main import main
from tle.runtimes.plan import accelerated

BACKBONE = ["--backbone", "torchvision/resnet18", "--weights", "none", "--resize", "40", "--crop", "32"]
QUICK = [*BACKBONE, "--device", "cpu", "--runtime", "torch", "--batch-size", "4", "--workers", "2"]


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setattr(stages, "_MEASURE_S", 0.02)
    monkeypatch.setattr(stages, "_PEAK_M", 256)
    monkeypatch.setattr(stages, "_WRITTEN_BYTES", 1_000_000)


@pytest.fixture
def photos(tmp_path, make_images, monkeypatch):
    make_images(tmp_path / "photos", ["cat", "dog"], 5, 48)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys):
    """What the user read on standard error, which has to be one line (notes and progress apart)."""
    read = capsys.readouterr()
    assert read.out == ""
    lines = [line for line in read.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("tle: ")
    return lines[0]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_json_is_json_and_nothing_else_and_the_plot_is_a_picture(photos, capsys):
    (photos / "photos" / "cat" / "bad.jpg").write_bytes(b"no picture")
    assert main(["bench", "photos", *QUICK, "--json", "--plot", "p.png", "-n", "8"]) == 0
    read = capsys.readouterr()
    result = json.loads(read.out)
    assert [stage["name"] for stage in result["stages"]] == ["read", "decode", "model", "write"]
    assert result["n_images"] == 8
    assert result["batch_size"] == 4
    assert {trial["plan"]["runtime"] for trial in result["trials"]} == {"torch"}
    assert sum(stage["share"] for stage in result["stages"]) == pytest.approx(1)
    assert "measuring each stage" in read.err
    with Image.open("p.png") as image:
        image.load()
        assert image.format == "PNG"


def test_what_is_printed_for_people(photos, capsys):
    """And what the extraction after it makes of that."""
    assert main(["bench", "photos", *QUICK]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].startswith("torchvision/resnet18 by torch ")
    assert lines[0].endswith("batches of 4, 2 threads, 10 pictures")
    assert [line.split()[0] for line in lines[1:6]] == ["stage", "read", "decode", "model", "write"]
    assert "end to end" in shown
    assert "binds" in shown
    assert "G multiply-adds a picture" in shown
    if accelerated("bfloat16", "cpu"):  # elsewhere there is only one way to run it
        assert any(line.startswith("tried ") for line in lines)
        assert any(line.startswith("torch float32") and "reference" in line for line in lines)
    assert main(["extract", "photos", "-o", "c.h5", *QUICK]) == 0
    tried = [line for line in capsys.readouterr().err.splitlines() if "trying" in line]
    assert len(tried) <= 1
    assert main(["inspect", "c.h5", "--json"]) == 0
    assert all(json.loads(capsys.readouterr().out)["precision"] in line for line in tried)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photos", *QUICK, "--plot", "p.jpg"], 2, "--plot takes a name that ends in .png, .pdf, .svg, got 'p.jpg'"),
        (["photos", *QUICK, "--plot", "p"], 2, "--plot takes a name"),
        (["photos", *QUICK, "--plot", "no/p.png"], 1, "does not exist; create it first"),
        (["photos", *QUICK, "--plot", "there.png"], 1, "there.png exists; pass --overwrite"),
        (["photos", *QUICK, "-n", "0"], 2, "--n-images takes 1 or more, got 0"),
        (["photos", *QUICK, "-n", "many"], 2, "many"),
        (["photos", *QUICK, "--crop", "big"], 2, "--crop"),
        (["nowhere", *QUICK], 1, "no such folder or manifest"),
        (["photos", "--runtime", "torch"], 2, "--backbone"),
        (["bad", *QUICK], 1, "not one of 2 pictures of bad can be read"),
        (["photos", *QUICK, "--precision", "int8"], 1, "takes --precision float32, bfloat16"),
    ],
    ids=lambda value: " ".join(token for token in value if token not in QUICK) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(photos, capsys, arguments, code, message):
    (photos / "there.png").write_bytes(b"mine")
    (photos / "bad").mkdir()
    for name in "ab":
        (photos / "bad" / f"{name}.jpg").write_bytes(b"no picture")
    assert main(["bench", *arguments]) == code
    assert message in one_line(capsys)
    assert (photos / "there.png").read_bytes() == b"mine"


def test_features_that_are_not_finite_are_still_json(photos, capsys):
    """One picture that the network cannot take makes no comparison senseless."""
    (photos / "nannet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.where(x[:, :1].amax((2, 3)) < -2, torch.nan, 1.0) * x.mean((2, 3))\n"
    )
    Image.new("RGB", (48, 48)).save(photos / "photos" / "dog" / "black.png")
    network = ["--backbone", "nannet:Net", "--layer", "output", "--resize", "40", "--crop", "32"]
    flags = ["--runtime", "torch", "--batch-size", "4", "--device", "cpu"]
    assert main(["bench", "photos", *network, *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not [trial for trial in result["trials"] if trial["refused"]]
