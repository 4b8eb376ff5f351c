"""The lines in README.md that run an exported classifier without tle do what tle predict does."""

import ast
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tle
from tle.images import EXACT_DECODER, FAST_DECODER, load

README = Path(__file__).parents[3] / "README.md"
N = 200
# Runs the snippet as it stands for one picture after the other; beside what it prints, all probabilities.
DRIVER = """
import json, sys
from pathlib import Path
code = compile(Path("snippet.py").read_text(), "snippet.py", "exec")
for path in Path("paths.txt").read_text().splitlines():
    sys.argv, names = ["snippet.py", path], {"__name__": "__main__"}
    exec(code, names)
    print(json.dumps(names["session"].run(None, {"pixels": names["pixels"]})[0][0].tolist()))
"""


def snippet():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "onnxruntime" in block]
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has onnxruntime, numpy and Pillow, and no tle and no torch."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "onnxruntime", "numpy", "Pillow"]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=150, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("pip took too long to install onnxruntime, numpy and Pillow")
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime, numpy and Pillow here: {done.stderr.strip().splitlines()[-1]}")
    return python


def test_it_is_short_and_needs_three_packages_alone():
    lines = [line for line in snippet().splitlines() if line]
    assert len(lines) <= 10
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(snippet()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("resize", [40, (36, 50), "none"])
def test_it_prepares_pictures_of_every_kind_as_tle_does(resize, make_images, tmp_path, monkeypatch):
    """Any resize, upright or turned, transparent in any form, grey: the same pixels, bit for bit."""
    monkeypatch.chdir(tmp_path)
    make_images(Path("photos"), per_class=2, size=(60, 47))
    options = tle.PreprocessOverrides(resize=resize, crop=(30, 33), interpolation="bicubic")
    tle.extract("photos", "c.h5", backbone="torchvision/squeezenet1_1", weights="none", overrides=options)
    tle.fit_head("c.h5", "c.head", params={"C": 1.0})
    tle.export("c.head", "photos.onnx", images="photos")
    preprocess = tle.load_classifier("c.head").backbone.preprocess
    code = compile(snippet(), "snippet.py", "exec")
    for name in write_odd_pictures():
        names = {"__name__": "__main__"}
        monkeypatch.setattr(sys, "argv", ["snippet.py", name])
        exec(code, names)
        want = load(Path(name).read_bytes(), preprocess, decoder=EXACT_DECODER)
        np.testing.assert_array_equal(names["pixels"][0], want, err_msg=name)


def write_odd_pictures():
    """Pictures of 61 x 44 and the other way round, in files of the working folder; their names."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (44, 61, 4)).astype(np.uint8), "RGBA")
    image.save("alpha.png")
    image.convert("LA").save("grey-alpha.png")
    image.convert("RGB").quantize(16).save("palette.png", transparency=3)
    image.convert("L").save("grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.convert("RGB").save("turned.jpg", exif=turned)
    image.convert("CMYK").save("cmyk.jpg")
    image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save("tall.png")
    return ["alpha.png", "grey-alpha.png", "palette.png", "grey.png", "turned.jpg", "cmyk.jpg", "tall.png"]


@pytest.mark.realdata
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["frozen", "fine-tuned", "frozen, fast decoding"])
def test_it_gives_what_tle_predict_gives(kind, bare_python, realdata, make_finetuned, tmp_path):
    """Decoded exactly, every probability is the same; the fast decoder's pixels differ, and no class does."""
    images, weights = realdata("art4apps"), str(realdata("lite0_checkpoint"))
    source = tle.open_source(images)
    some = source.spread(N)
    (tmp_path / "m.csv").write_text(
        "path,label\n" + "".join(f"{some.path(row)},{source.classes[some.labels[row]]}\n" for row in range(N))
    )
    exact = "fast" not in kind
    backbone, path = "timm/tf_efficientnet_lite0", tmp_path / "a.tle"
    if kind == "fine-tuned":
        make_finetuned(path, source.classes, backbone=backbone, weights=weights, crop=96, decoder=EXACT_DECODER)
    else:
        tle.extract(
            tmp_path / "m.csv",
            tmp_path / "c.h5",
            backbone=backbone,
            weights=weights,
            overrides=tle.PreprocessOverrides(resize=96, crop=96),
            execution=tle.Execution(exact_decode=exact, precision="float32"),
        )
        path = tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head").path
    assert tle.load_classifier(path).head.spec["decoder"] == (EXACT_DECODER if exact else FAST_DECODER)
    exported = tle.export(path, tmp_path / "photos.onnx", images=tmp_path / "m.csv")
    assert exported.n_checked == N
    precise = tle.Execution(precision="float32")
    tle.predict(path, tmp_path / "m.csv", tmp_path / "p.csv", top_k=len(source.classes), execution=precise)
    (tmp_path / "snippet.py").write_text(snippet())
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "paths.txt").write_text("\n".join(str(some.path(row)) for row in range(N)))
    done = subprocess.run([bare_python, "driver.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N == len(lines) / 2
    difference = 0.0
    for row, said, numbers in zip(rows, lines[::2], lines[1::2], strict=True):
        probability, name = ast.literal_eval(said)
        assert name == row["class"], row["id"]
        theirs = dict(zip(source.classes, json.loads(numbers), strict=True))
        assert probability == pytest.approx(theirs[name])
        for rank in range(len(source.classes)):
            suffix = f"_{rank + 1}" if rank else ""
            difference = max(difference, abs(theirs[row[f"class{suffix}"]] - float(row[f"probability{suffix}"])))
    assert difference <= (1e-3 if exact else 0.05)
    assert np.isfinite(difference)
