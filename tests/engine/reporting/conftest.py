"""Small real classifiers to report on, and a browser to look at the page with."""

import csv
import html
import re
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

import tle

SMALL = tle.PreprocessOverrides(resize=40, crop=32)
PLAIN = tle.Execution(runtime="torch", precision="float32", batch_size=8, workers=1)
# A class that would run if it were not escaped, and one that would end an attribute.
HOSTILE = ("<script>alert(1)</script>", 'it\'s "so" & <i>', "owl")


@pytest.fixture
def plain():
    """How small reports are run: nothing is tried, so that they take no longer than they must."""
    return PLAIN


@pytest.fixture
def small():
    """Preprocessing for pictures of 48 pixels."""
    return SMALL


@pytest.fixture
def hostile():
    """Names of the three classes of `make_head`."""
    return HOSTILE


def write_manifest(root, label_of, *, test_every=3):
    """`root/list.csv` of the pictures below `root`, each third one of a class for the test."""
    path = root / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for folder in sorted(child for child in root.iterdir() if child.is_dir()):
            for number, picture in enumerate(sorted(folder.iterdir())):
                split = "test" if number % test_every == 0 else "train"
                writer.writerow([f"{folder.name}/{picture.name}", label_of(folder.name, number), split])
    return path


@pytest.fixture
def make_head(tmp_path, make_images):
    """make_head(target): pictures with hostile class names in a manifest and a head on them; (manifest, head)."""

    def make(target="class"):
        root = make_images(tmp_path / "photos", ["a", "b", "c"], 12, 48)
        names = dict(zip("abc", HOSTILE, strict=True))
        labels = {
            # One test picture has a wrong label: a mistake to be shown.
            "class": lambda folder, number: "owl" if (folder, number) == ("a", 6) else names[folder],
            "multilabel": lambda folder, number: ";".join([names[folder]] + (["small"] if number % 2 else [])),
            "regression": lambda folder, number: f"{'abc'.index(folder) * 10 + number / 10}",
        }
        manifest = write_manifest(root, labels[target])
        tle.extract(
            manifest, tmp_path / "c.h5", backbone="torchvision/resnet18", weights="none", overrides=SMALL,
            target=None if target == "class" else target, execution=PLAIN,
        )  # fmt: skip
        params = {"C": 0.1} if target == "multilabel" else {}  # one of its labels is noise: a sweep would take its time
        tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head", params=params)
        return manifest, tmp_path / "c.head"

    return make


@dataclass
class Seen:
    """What a browser made of a page: attributes of its root, whether each section was drawn, what a script found, console."""

    root: dict[str, str]
    drawn: dict[str, str]
    found: dict[str, str]
    console: list[str]


@pytest.fixture
def browse(tmp_path):
    """browse(page, width, script): look at a page in Chromium, in a frame of that width; skips where there is none.

    The script may act on the document `inner` and put strings into `found`.
    """
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")

    def look(page, width, script=""):
        # A window cannot be narrower than 500 pixels; a frame can.
        frame = tmp_path / "frame.html"
        frame.write_text(
            f"""<!doctype html><body style="margin:0"><iframe style="border:0;width:{width}px;height:2000px"
            srcdoc="{html.escape(page.read_text(encoding="utf-8"))}"></iframe><script>
            const frame = document.querySelector("iframe");
            frame.onload = () => {{
              const inner = frame.contentDocument;
              const say = (name, data) => {{
                const found = document.createElement("p");
                found.id = name;
                Object.assign(found.dataset, data);
                document.body.append(found);
              }};
              say("root", inner.documentElement.dataset);
              for (const section of inner.querySelectorAll("main section")) say(section.id, section.dataset);
              const found = {{}};
              {script}
              say("found", found);
              frame.remove();
            }};</script>""",
            encoding="utf-8",
        )
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000", "--enable-logging=stderr", "--v=0", "--window-size=1400,2000", "--dump-dom",
            frame.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        said = {
            name: dict(re.findall(r'data-(\w+)="([^"]*)"', attributes))
            for name, attributes in re.findall(r'<p id="([^"]+)"([^>]*)>', done.stdout)
        }
        root, found = said.pop("root"), said.pop("found")
        drawn = {name: found.get("drawn", "") for name, found in said.items()}
        return Seen(root, drawn, found, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return look


@pytest.fixture
def story():
    """story(head): a bundle of a head with the record of a training, its rates and validation pictures."""

    def make(head, *, images=None, val_digests=(), history=None):
        groups = [
            {"name": "layer3", "layer_id": 3, "n_parameters": 10, "lr": 1e-4, "weight_decay": 0.05, "frozen": False,
             "warmup": True, "batchnorm": "eval"},
            {"name": "head", "layer_id": 5, "n_parameters": 6, "lr": 1e-3, "weight_decay": 0.0, "frozen": False,
             "warmup": True, "batchnorm": "eval"},
            {"name": "layer1", "layer_id": 1, "n_parameters": 4, "lr": 0.0, "weight_decay": 0.0, "frozen": True,
             "warmup": False, "batchnorm": "eval"},
        ]  # fmt: skip
        steps = np.minimum(np.arange(1, 41) / 10, 1.0)
        return tle.Bundle(
            head=head,
            data={} if images is None else {"images": str(images), "kind": "folder", "counts": {"train": 3, "val": 2}},
            training={
                "options": {"epochs": 2, "metric": "accuracy"},
                "groups": groups,
                "history": history
                or [
                    {"epoch": 0, "step": 0, "val_loss": 0.9, "val_accuracy": 0.5},
                    {"epoch": 1, "step": 20, "train_loss": 0.8, "val_loss": 0.7, "val_accuracy": 0.75,
                     "images_per_s": 31.5, "seconds": 2.0},
                    {"epoch": 2, "step": 40, "train_loss": 0.5, "val_loss": 0.72, "val_accuracy": 0.7},
                ],
                "best_epoch": 1,
                "verdict": {"kept": "head", "metric": "accuracy", "head": 0.7, "finetuned": 0.75, "difference": 0.05,
                            "interval": [-0.02, 0.12], "p": 0.3, "n": 40},
                "throughput": {"images_per_s": 30.0, "limit_images_per_s": 40.0},
            },
            arrays={
                "lr": np.stack([1e-4 * steps, 1e-3 * steps, 0 * steps], axis=1),
                "val_digests": np.array(val_digests, np.uint64),
            },
        )  # fmt: skip

    return make
