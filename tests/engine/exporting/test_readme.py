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

import tle
from tle.images import EXACT_DECODER, FAST_DECODER

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
    lines = snippet().strip().splitlines()
    assert len(lines) <= 10
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(snippet()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


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
