"""What else turns a folder of pictures into features on this machine, each as its users write it; one peer a process.

    python -m tle.benchmarks.peers torchvision FOLDER --model resnet18 --weights FILE --output features.npy

Prints one line of JSON: pictures, seconds and images/s from the start of loading to the last feature (imports,
construction and one warm-up batch of the network left out), or why the peer cannot run here. Writes float32 (N, D) in
the order of the sorted relative paths. Nothing is shared with tle.

# B batch, H W height and width, N images, D feature dim
"""

import argparse
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tle.benchmarks import networks

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class PeerUnavailableError(RuntimeError):
    """A peer that is not installed, or cannot do what is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a peer has to do.

    Attributes:
        folder: pictures as `class/img.jpg`.
        model: a network of `networks.CLASSIFIERS`.
        weights: its state dict.
        resize: shorter side in pixels.
        crop: side of the centre crop in pixels.
        batch_size: pictures a batch.
        workers: loading processes beside the main one.
        warm_up: run the network once on an empty batch before the clock starts.
    """

    folder: Path
    model: str
    weights: Path
    resize: int
    crop: int
    batch_size: int
    workers: int
    warm_up: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a peer did.

    Attributes:
        names: N paths, in the order of the features.
        features: float32 (N, D).
        seconds: from the start of loading to the last feature.
    """

    names: list[str]
    features: Any
    seconds: float


def torchvision(task: Task) -> Outcome:
    """ImageFolder, the weights' own transforms, DataLoader, torch eager in float32."""
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(task.folder), networks.transforms(task.model, task.resize, task.crop))
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=task.batch_size, num_workers=task.workers)
    features_ND, seconds = _loop(loader, task)
    return Outcome([path for path, _ in dataset.samples], features_ND, seconds)


def timm(task: Task) -> Outcome:
    """Dataset, transforms and prefetching loader of timm, as its own `inference.py` sets them; the same network."""
    import timm.data

    dataset: Any = timm.data.ImageDataset(str(task.folder))
    loader: Any = timm.data.create_loader(
        dataset,
        input_size=(3, task.crop, task.crop),
        batch_size=task.batch_size,
        num_workers=task.workers,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        crop_pct=task.crop / (task.resize + 0.5),  # timm rounds crop / crop_pct down: exactly `resize`
        device=torch.device("cpu"),
    )
    features_ND, seconds = _loop(loader, task)
    return Outcome(dataset.filenames(absolute=True), features_ND, seconds)


def _loop(loader: Iterable[Any], task: Task) -> tuple[Any, float]:
    model = networks.load(task.model, task.weights)
    with torch.inference_mode():
        if task.warm_up:
            model(torch.zeros(task.batch_size, 3, task.crop, task.crop))
        started = time.perf_counter()
        parts = [model(pictures).numpy() for pictures, _ in loader]
    return np.concatenate(parts), time.perf_counter() - started


def img2vec_pytorch(task: Task) -> Outcome:
    """`Img2Vec.get_vec` on lists of PIL pictures: 224x224 whatever their proportions, no other preprocessing."""
    img2vec = importlib.import_module("img2vec_pytorch")
    published: Any = networks.published_weights(task.model)
    if not task.model.startswith("resnet"):
        raise PeerUnavailableError(f"img2vec-pytorch {task.model}: no such network, or another layer")
    paths = sorted(str(path) for path in task.folder.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as home:
        # It always loads the default weights; torch hub takes a file of that name instead of the network.
        target = Path(home) / "hub" / "checkpoints" / published.DEFAULT.url.rpartition("/")[2]
        target.parent.mkdir(parents=True)
        shutil.copyfile(task.weights, target)
        os.environ["TORCH_HOME"] = home
        network = img2vec.Img2Vec(model=task.model)
    if task.warm_up:
        network.get_vec([Image.new("RGB", (224, 224))] * task.batch_size)
    started = time.perf_counter()
    batches = (paths[start : start + task.batch_size] for start in range(0, len(paths), task.batch_size))
    parts = [network.get_vec([Image.open(path).convert("RGB") for path in batch]) for batch in batches]
    return Outcome(paths, np.concatenate(parts), time.perf_counter() - started)


def lightly_train(task: Task) -> Outcome:
    """`lightly_train.embed` with its own batch size, workers and preprocessing: 224x224 whatever the proportions."""
    os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # it reports its use over the network
    library = importlib.import_module("lightly_train")
    checkpoints = importlib.import_module("lightly_train._checkpoint")
    transform = importlib.import_module("lightly_train._transforms.transform")
    models = importlib.import_module("lightly_train._models.package_helpers")
    embedding = importlib.import_module("lightly_train._models.embedding_model")
    network = networks.load(task.model, task.weights, cut=False)
    try:
        wrapped = models.get_wrapped_model(network, num_input_channels=3)
    except library.errors.UnknownModelError as error:
        raise PeerUnavailableError(f"lightly-train {task.model}: no such network") from error
    embedder = embedding.EmbeddingModel(wrapped)
    parts = checkpoints.CheckpointLightlyTrainModels(network, wrapped, embedder)
    normalize = transform.NormalizeArgs(mean=MEAN, std=STD)
    record = checkpoints.CheckpointLightlyTrain.from_now(parts, normalize)
    if task.warm_up:
        with torch.inference_mode():
            embedder.eval()(torch.zeros(task.batch_size, 3, task.crop, task.crop))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints.Checkpoint(network.state_dict(), record).save(Path(scratch) / "last.ckpt")
        output = Path(scratch) / "features.pt"
        started = _note_first_loading()
        library.embed(
            out=output,
            data=task.folder,
            checkpoint=Path(scratch) / "last.ckpt",
            image_size=(task.crop, task.crop),
            accelerator="cpu",
        )
        seconds = time.perf_counter() - started[0]
        found = torch.load(output, weights_only=True)
    return Outcome(found["filenames"], found["embeddings"].flatten(1).numpy(), seconds)


def _note_first_loading() -> list[float]:
    """A list that gets the time when a DataLoader starts: where the clock of every peer starts."""
    started: list[float] = []
    plain = torch.utils.data.DataLoader.__iter__

    def iterate(self: Any) -> Any:
        started.append(time.perf_counter())
        return plain(self)

    torch.utils.data.DataLoader.__iter__ = iterate  # type: ignore[method-assign]
    return started


PEERS: dict[str, Callable[[Task], Outcome]] = {
    "torchvision": torchvision,
    "timm": timm,
    "lightly-train": lightly_train,
    "img2vec-pytorch": img2vec_pytorch,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one peer, write its features, print what it took; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.peers", description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=networks.CLASSIFIERS, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="features, NAME.npy")
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--warm-up", action=argparse.BooleanOptionalAction, default=True)
    options = vars(parser.parse_args(arguments))
    peer, output = options.pop("peer"), options.pop("output")
    try:
        outcome = PEERS[peer](Task(**options))
    except PeerUnavailableError as error:
        print(json.dumps({"unavailable": str(error)}))
        return 0
    except ImportError as error:
        print(json.dumps({"unavailable": f"{peer}: not installed ({error})"}))
        return 0
    order = sorted(range(len(outcome.names)), key=outcome.names.__getitem__)
    np.save(output, outcome.features[order])
    n = len(order)
    print(json.dumps({"images": n, "seconds": outcome.seconds, "images_per_s": n / outcome.seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
