"""`tle finetune` as a user sees it: one command in the place of a script, and one line for what cannot be done."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tle.bundle import read_bundle
from tle.cli.main import main
from tle.cli.training import TrainingFlags
from tle.finetuning.loader import epoch_order
from tle.finetuning.options import FinetuneOptions
from tle.images import FAST_DECODER, load
from tle.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED, EPOCHS, BATCH = 3, 4, 8
CLASSES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path, make_images, monkeypatch):
    """40 train and 12 val pictures, and published weights of ResNet-18 as the file of its state dict."""
    make_images(tmp_path / "photos", CLASSES, 14, 80, ["train"])
    make_images(tmp_path / "photos", CLASSES, 4, 80, ["val"], seed=1)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    return tmp_path


SEED_COMMAND = [
    "finetune", "photos", "-o", "photos.tle", "--init", "none", "--backbone", "torchvision/resnet18",
    "--weights", "resnet18.pth", "--crop", "64", "--resize", "64", "--lr", "layer4=1e-4", "--lr", "fc=1e-3",
    "--freeze-rest", "--optimizer", "sgd", "--momentum", "0.9", "--schedule", "constant", "--warmup", "0",
    "--weight-decay", "0", "--bn", "train", "--no-random-crop", "--flip", "0", "--clip", "0", "--precision", "float32",
    "--epochs", str(EPOCHS), "--batch-size", str(BATCH), "--seed", str(SEED), "--device", "cpu", "--keep", "last",
]  # fmt: skip


def plain_script(root):
    """What the command stands for, in plain PyTorch: the trained network and the one that it started from."""
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(root / "resnet18.pth", weights_only=True))
    torch.manual_seed(SEED)
    network.fc = torch.nn.Linear(512, len(CLASSES))
    start = {name: value.clone() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4.", "fc.")))
    groups = [{"params": network.layer4.parameters(), "lr": 1e-4}, {"params": network.fc.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    preprocess = Preprocess(resize=64, crop=(64, 64), interpolation="bilinear", mean=MEAN, std=STD)
    files = sorted((root / "photos" / "train").rglob("*.jpg"))
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    pixels = [load(file.read_bytes(), preprocess, decoder=FAST_DECODER) for file in files]
    # (x / 255 - mean) / std in one multiplication and addition, as tle's graph has it: in 20 steps through BatchNorm of 32
    # values each, the other order's rounding alone moves weights by 3e-6 and statistics by 7e-5.
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1) for values in (MEAN, STD))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() * (1 / (255 * std)).float()
    images += (-mean / std).float()
    network.eval()
    network.layer4.train()
    steps = 0
    for epoch in range(EPOCHS):
        order = epoch_order(len(files), seed=SEED, epoch=epoch)
        for at in range(0, len(files) - BATCH + 1, BATCH):
            rows = torch.from_numpy(order[at : at + BATCH])
            optimizer.zero_grad()
            criterion(network(images[rows]), labels[rows]).backward()
            optimizer.step()
            steps += 1
    assert steps == 20
    return network.state_dict(), start


def test_the_command_is_the_plain_script(photos, capsys):
    with torch.random.fork_rng(devices=[]):
        expected, start = plain_script(photos)
    assert main(SEED_COMMAND) == 0
    assert "photos.tle" in capsys.readouterr().out
    bundle = read_bundle("photos.tle")
    found = {name.removeprefix("body."): torch.from_numpy(np.array(value)) for name, value in bundle.state.items()}
    found["fc.weight"] = torch.from_numpy(np.array(bundle.head.model.weight_KD))
    found["fc.bias"] = torch.from_numpy(np.array(bundle.head.model.bias_K))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        trained = name.startswith(("layer4.", "fc."))
        assert torch.equal(value, start[name]) != trained, name
    assert bundle.arrays["lr"].shape[0] == 20


# What a user reads


@pytest.fixture
def tiny(tmp_path, make_images, monkeypatch):
    """Pictures, a network of the user's own, and a head on its features."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", CLASSES, 6, 32, ["train"])
    make_images(tmp_path / "photos", CLASSES, 3, 32, ["val"], seed=1)
    (tmp_path / "ownnet.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))\n"
        "    return nn.Sequential(block, nn.Flatten(), nn.Linear(8, 4))\n"
    )
    small = ["--resize", "28", "--crop", "24", "--runtime", "torch", "--precision", "float32", "--device", "cpu"]
    assert main(["extract", "photos", "-o", "photos.h5", "--backbone", "ownnet:make", *small, "-b", "8"]) == 0
    assert main(["fit-head", "photos.h5", "-o", "photos.head"]) == 0
    return tmp_path


FROM_HEAD = ["finetune", "photos", "-o", "photos.tle", "--init", "photos.head", "--device", "cpu"]
NEW = ["finetune", "photos", "-o", "photos.tle", "--init", "none", "--backbone", "ownnet:make", "--crop", "24"]
SHORT = ["--epochs", "2", "-b", "6"]


def one_line(capsys):
    """What the user read on standard error, which has to be one line (notes and progress apart)."""
    read = capsys.readouterr()
    assert "Traceback" not in read.err
    lines = [line for line in read.err.splitlines() if line.startswith("tle: ")]
    assert len(lines) == 1
    return lines[0]


def test_from_a_head_to_predictions(tiny, capsys):
    capsys.readouterr()
    assert main([*FROM_HEAD, *SHORT, "--plot", "curves.png", "--keep", "finetuned"]) == 0
    read = capsys.readouterr()
    assert "the head on the cache" in read.err
    lines = read.out.splitlines()
    assert lines[0] == "photos.tle: 18 train and 9 val pictures, best epoch " + lines[0][-6:]
    assert lines[1].split()[:4] == ["epoch", "step", "val_loss", "val_accuracy"]
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    assert any(
        line.startswith("fine-tuning ") and "of the frozen head on 9 validation pictures" in line for line in lines
    )
    assert any("images/s in training" in line for line in lines)
    assert lines[-1] == "last and best weights, to go on from: photos.tle.checkpoint"
    with Image.open("curves.png") as picture:
        assert picture.size[0] > 500
    assert main(["predict", "photos.tle", "photos/val", "-o", "p.csv", "--device", "cpu"]) == 0


def test_json_is_one_document(tiny, capsys):
    capsys.readouterr()
    assert main([*FROM_HEAD, *SHORT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["n_train"], told["n_val"]) == ("photos.tle", 18, 9)
    assert told["kept"] in ("head", "finetuned")
    assert [row["epoch"] for row in told["training"]["history"]] == [0, 1, 2]


def test_groups_are_shown_before_anything_is_trained(tiny, capsys):
    capsys.readouterr()
    assert main(["finetune", "--init", "photos.head", "--show-groups", "--freeze", "0", "--lr", "1e-3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["group", "layer", "parameters"]
    assert any(line.startswith("head") and "0.001" in line for line in lines)
    assert any("frozen" in line for line in lines)
    assert main(["finetune", "--init", "photos.head", "--show-groups", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert sum(group["n_parameters"] for group in groups) == 3 * 8 * 9 + 8 + 16 + 3 * 8 + 3
    assert not Path("photos.tle").exists()


REFUSED = [
    (["--optimizer", "adam"], "adam"),
    (["--epochs", "0"], "--epochs takes a whole number from 1 on, got 0"),
    (["--batch-size", "-3"], "--batch-size takes a whole number from 1 on"),
    (["--accumulate", "0"], "--accumulate takes"),
    (["--lr", "fast"], "--lr takes a rate or PATTERN=RATE"),
    (["--lr", "0.1", "--lr", "0.2"], "--lr gives two rates for everything, 0.1 and 0.2"),
    (["--lr", "-1"], "--lr takes a number above 0"),
    (["--lr", "nan"], "--lr takes a number above 0"),
    (["--lr", "nothing=0.1", "--freeze-rest"], "nothing"),
    (["--lr", "head=0.1"], "leaves the other parameters open"),
    (["--lr", "head=0", "--freeze-rest"], "--lr head takes a learning rate above 0"),
    (["--lr-rest", "0.1"], "--lr-rest is about what no --lr PATTERN=LR matches"),
    (["--freeze-rest"], "--freeze-rest is about what no --lr PATTERN=LR matches"),
    (["--freeze", "nothing"], "nothing"),
    (["--lr-range", "1e-5", "1e-3", "--layer-decay", "0.5"], "--lr-range and --layer-decay"),
    (["--layer-decay", "-1"], "--layer-decay takes a number above 0"),
    (["--momentum", "1", "--optimizer", "sgd"], "--momentum takes a number from 0 to below 1"),
    (["--weight-decay", "-1"], "--weight-decay takes a number of at least 0"),
    (["--warmup", "soon"], "--warmup takes steps (100), epochs (1e, 0.5e) or a part of the training (5%)"),
    (["--warmup-groups", "nothing"], "nothing"),
    (["--momentum", "0.9"], "adamw has none"),
    (["--precision", "float16"], "--precision float16 is for GPUs"),
    (["--clip", "-1"], "--clip takes"),
    (["--label-smoothing", "1"], "--label-smoothing takes"),
    (["--mixup", "-1"], "--mixup takes"),
    (["--cutmix", "-1"], "--cutmix takes"),
    (["--rand-augment", "0", "9"], "rand_augment should be"),
    (["--crop-scale", "1", "0.5"], "scale should be"),
    (["--flip", "2"], "flip should be a probability"),
    (["--class-weights", "--balanced-sampling"], "--class-weights and --balanced-sampling"),
    (["--ema", "1"], "--ema takes a number from 0 to below 1"),
    (["--patience", "-1"], "--patience takes"),
    (["--metric", "mAP"], "mAP"),
    (["--val-fraction", "1"], "--val-fraction takes"),
    (["--seed", "-1"], "seed"),
    (["--checkpoint-minutes", "0"], "--checkpoint-minutes takes a number above 0"),
    (["--workers", "0"], "--workers takes"),
    (["--max-pixels", "0"], "--max-pixels takes"),
    (["--plot", "curves.txt"], "--plot takes a name that ends in"),
    (["--backbone", "ownnet:make"], "--backbone goes with --init none"),
    (["--weights", "resnet18.pth"], "weights"),
    (["--crop", "24"], "preprocessing flags go with --init none"),
    (["--target", "class"], "--target goes with --init none"),
]


def test_a_flag_that_cannot_be_used_is_one_line(tiny, capsys):
    capsys.readouterr()
    for flags, said in REFUSED:
        code = main([*FROM_HEAD, *flags])
        assert said in one_line(capsys), flags
        assert code == (1 if flags[0] == "--weights" else 2), flags
        assert not list(Path().glob("photos.tle*")), flags


def test_what_is_missing_is_one_line(tiny, capsys):
    for command, said in (
        (["finetune", "photos"], "--init"),
        (["finetune", "--init", "photos.head"], "tle finetune takes the pictures and an --output"),
        (["finetune", "photos", "--init", "photos.head", "-o", "photos.head"], "called NAME.tle"),
        (["finetune", "photos", "--init", "none", "-o", "a.tle"], "--init none needs a --backbone"),
        ([*NEW, "--cache", "photos.h5"], "--init none has no head"),
        (["finetune", "--init", "none", "--backbone", "ownnet:make", "--show-groups"], "a new head needs the pictures"),
    ):
        assert main(command) == 2
        assert said in one_line(capsys)
    for command, said in (
        (["finetune", "nowhere", "--init", "photos.head", "-o", "a.tle"], "no such folder"),
        (["finetune", "photos", "--init", "nowhere.head", "-o", "a.tle"], "nowhere.head"),
        (["finetune", "photos", "--init", "photos.head", "-o", "missing/a.tle"], "does not exist; create it first"),
        (["finetune", "photos", "--init", "photos.head", "--cache", "no.h5", "-o", "a.tle"], "no.h5"),
    ):
        assert main(command) == 1
        assert said in one_line(capsys)


def test_ctrl_c_leaves_a_checkpoint_and_the_way_on(tiny):
    command = [sys.executable, "-m", "tle.cli.main", *FROM_HEAD, "-b", "6", "--epochs", "100000", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "epoch 2 of" in line:
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
        assert process.wait(timeout=60) == 130
        assert process.stdout.read() == ""
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("tle: interrupted; the same command goes on at step ")
    assert lines[-1].rstrip().endswith("(photos.tle.checkpoint has it)")
    assert Path("photos.tle.checkpoint").is_file()
    assert not Path("photos.tle").exists()


# Flags and options


OTHER = {  # of every flag, a value that is not the default
    "epochs": 3, "batch_size": 7, "accumulate": 2, "optimizer": "sgd", "lr": ["0.5", "layer4=0.1"], "lr_rest": 0.3,
    "freeze_rest": True, "freeze": ["layer1"], "lr_range": (0.1, 0.2), "layer_decay": 0.5, "momentum": 0.5,
    "weight_decay": 0.3, "schedule": "linear", "warmup": "3", "warmup_groups": ["head"], "unfreeze_schedule": True,
    "bn": "train", "precision": "float32", "clip": 2.0, "label_smoothing": 0.1, "mixup": 0.2, "cutmix": 0.3,
    "rand_augment": (2, 9), "no_random_crop": True, "crop_scale": (0.5, 0.6), "flip": 0.1, "class_weights": True,
    "balanced_sampling": True, "ema": 0.9, "patience": 2, "metric": "nll", "keep": "last", "val_fraction": 0.3, "seed": 5,
    "checkpoint_minutes": 3.0, "device": "cpu", "workers": 3, "max_pixels": 10,
}  # fmt: skip


def test_no_flag_is_dead():
    plain = dataclasses.asdict(TrainingFlags().options())
    assert plain == dataclasses.asdict(FinetuneOptions())
    assert OTHER.keys() == {field.name for field in dataclasses.fields(TrainingFlags)}
    reached = set()
    for name, value in OTHER.items():
        beside = {"momentum": {"optimizer": "sgd"}}.get(name, {})  # without which it would be refused
        found = dataclasses.asdict(TrainingFlags(**{name: value}, **beside).options())
        changed = {option for option in found if found[option] != plain[option]} - beside.keys()
        assert changed, name
        reached |= changed
    assert reached == plain.keys()


def test_rates_in_the_order_in_which_they_were_given():
    options = TrainingFlags(lr=["layer4=1e-4", "1e-3", "head=1e-2"]).options()
    assert options.lr == 1e-3
    assert options.lr_rules == (("layer4", 1e-4), ("head", 1e-2))
