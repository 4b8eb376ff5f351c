"""A network of a few thousand parameters, pictures for it, a head on its features, and trainings of a second."""

import signal
from pathlib import Path

import pytest

NETWORK = """
from torch import nn


def block(width, out):
    return nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.stem, self.low, self.high = block(3, 8), block(8, 12), block(12, 16)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.drop(self.high(self.low(self.stem(x))).mean((2, 3))))


def make():
    return Net(0.0)


def with_dropout():
    return Net(0.3)


def tail():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))
    return nn.Sequential(block(3, 8), pool, nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.fixture(autouse=True)
def one_thread():
    """What is compared bit by bit is computed by one thread; the number is the process's and is put back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    (folder / "tinynet.py").write_text(NETWORK)
    return folder


@pytest.fixture
def photos(tmp_path, make_images, monkeypatch, network_folder):
    """21 train and 9 val pictures of three classes in the folder `photos`; `tinynet` can be imported."""
    monkeypatch.syspath_prepend(network_folder)
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", per_class=7, splits=["train"])
    make_images(tmp_path / "photos", per_class=3, splits=["val"], seed=1)
    return Path("photos")


@pytest.fixture
def train(photos):
    """train(output="a.tle", images=photos, init="none", **options): a training of tinynet; returns the result."""
    import tle

    def run(output="a.tle", *, images=photos, init="none", network="make", overwrite=False, progress=False, **options):
        made = {"backbone": f"tinynet:{network}", "overrides": tle.PreprocessOverrides(resize=28, crop=24)}
        values = {"epochs": 2, "batch_size": 4, "workers": 2, "device": "cpu", "optimizer": "sgd", **options}
        from_cache = {name: values.pop(name) for name in ("cache", "weights", "target", "splits") if name in values}
        return tle.finetune(
            images,
            output,
            init=init,
            **(made if init == "none" else {}),
            **from_cache,
            options=tle.FinetuneOptions(**values),
            overwrite=overwrite,
            progress=progress,
        )

    return run


@pytest.fixture
def fit(photos):
    """fit(name="photos", images=photos, **options): a head of tinynet's features and its cache; returns the head's path."""
    import tle

    def run(name="photos", *, images=photos, network="make", execution=None, target=None, **options):
        made = {"backbone": f"tinynet:{network}", "overrides": tle.PreprocessOverrides(resize=28, crop=24)}
        execution = execution or tle.Execution(runtime="torch", device="cpu", precision="float32", batch_size=8)
        tle.extract(images, f"{name}.h5", **made, execution=execution, target=target)
        tle.fit_head(f"{name}.h5", f"{name}.head", **options)
        return Path(f"{name}.head")

    return run


@pytest.fixture(scope="session")
def weights_of():
    """weights_of(path): every tensor of a classifier's network by its public name, the head's too."""
    from tle.bundle import read_bundle
    from tle.finetuning.network import public_name

    def read(path):
        bundle = read_bundle(path)
        state = {public_name(name): array for name, array in (bundle.state or {}).items()}
        return state | {
            f"head.{name}": array for name, array in bundle.head.arrays().items() if name in ("weight", "bias")
        }

    return read


@pytest.fixture
def start_of(train, weights_of):
    """start_of(**options): the tensors that a training starts from."""

    def read(**options):
        still = {"freeze": ("stem", "low", "high"), "lr": 1e-30, "epochs": 1, "keep": "last"}
        return weights_of(train("start.tle", **options, **still).path)

    return read


@pytest.fixture(scope="session")
def assert_same(weights_of):
    """assert_same(one, other): two classifiers are equal bit by bit, times apart."""
    import numpy as np

    from tle.bundle import read_bundle

    timed = ("images_per_s", "seconds")

    def compare(one, other):
        ours, theirs = weights_of(one), weights_of(other)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        first, second = read_bundle(one), read_bundle(other)
        np.testing.assert_array_equal(first.arrays["lr"], second.arrays["lr"])
        told = [
            [{name: value for name, value in row.items() if name not in timed} for row in bundle.training["history"]]
            for bundle in (first, second)
        ]
        assert told[0] == told[1]

    return compare


@pytest.fixture
def interrupt_after(monkeypatch):
    """interrupt_after(n): the process gets a real SIGINT after n more steps of a training, or ends of an epoch."""
    from tle.finetuning.saver import Saver

    plain = Saver.save_if_due

    def arm(n):
        left = iter(range(n - 1, -1, -1))

        def save(self):
            if next(left, None) == 0:
                signal.raise_signal(signal.SIGINT)
            plain(self)

        monkeypatch.setattr(Saver, "save_if_due", save)

    return arm
