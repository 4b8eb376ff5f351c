"""Fixtures shared by all tests; nothing here imports torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tle.benchmarks import datasets, registries


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test measures is remembered for that test alone."""
    monkeypatch.setenv("TLE_CACHE", str(tmp_path_factory.mktemp("tle-cache")))


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """A function that writes small pictures into class folders.

    make_images(root, classes=("blue", "green", "red"), per_class=4, size=32, splits=None, suffix=".jpg", seed=0)

    Each class is a texture of its own colour and grain, so that any sensible feature tells them apart; every picture
    differs. Files are `root/class/000.jpg`, or `root/split/class/000.jpg` for each of `splits`. The same arguments give
    the same bytes. Returns `root`.
    """

    def make(
        root: Path,
        classes: Sequence[str] = ("blue", "green", "red"),
        per_class: int = 4,
        size: int | tuple[int, int] = 32,
        splits: Sequence[str] | None = None,
        suffix: str = ".jpg",
        seed: int = 0,
    ) -> Path:
        width, height = (size, size) if isinstance(size, int) else size
        rng = np.random.default_rng(seed)
        for split in splits or ("",):
            for number, name in enumerate(classes):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                turn = 2 * np.pi * number / len(classes)
                colour = 127 + 90 * np.cos(turn + np.array([0, 2, 4]) * np.pi / 3)
                grain = 1 << (number % 4 + 1)
                for index in range(per_class):
                    coarse = rng.normal(0, 40, (height // grain + 1, width // grain + 1, 1))
                    noise = coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width]
                    pixels = np.clip(colour + noise + rng.normal(0, 8), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index:03d}{suffix}")
        return root

    return make


@pytest.fixture(scope="session")
def make_finetuned() -> Callable[..., Path]:
    """A function that writes a fine-tuned classifier as a training would, without one.

    make_finetuned(path, classes, backbone="torchvision/squeezenet1_1", weights="none", crop=32, decoder=None, **parts)

    `parts` are those of the `Bundle`. The backbone's weights are moved a little, and a random linear head sees features of
    about unit size. Returns `path`.
    """

    def make(path, classes, *, backbone="torchvision/squeezenet1_1", weights=None, crop=32, decoder=None, **parts):
        import torch

        from tle.backbones.backbone import digest_state
        from tle.backbones.load import PreprocessOverrides, load_backbone
        from tle.bundle import Bundle, state_arrays, write_bundle
        from tle.cache import fingerprint
        from tle.enums import Target
        from tle.heads.affine import Affine, Link
        from tle.heads.head import Head
        from tle.identity import feature_spec, finetuned_spec
        from tle.images import FAST_DECODER

        base = load_backbone(
            backbone,
            weights=weights or ("none" if "/" in backbone else "DEFAULT"),
            overrides=PreprocessOverrides(resize=crop + crop // 4, crop=crop),
        )
        before = feature_spec(base, decoder=decoder or FAST_DECODER, precision="float32")
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(0, 2, (8, 3, crop, crop), generator=generator) * 2.0 - 1.0
        with torch.no_grad():
            for parameter in base.module.parameters():
                parameter.add_(0.2 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator))
            features = base.module(noise)
        spec = finetuned_spec(before, digest_state(base.module.state_dict(), base.code))
        weight = np.random.default_rng(2).normal(size=(len(classes), base.dim)) / (
            base.dim**0.5 * float(features.std())
        )
        head = Head(
            kind="fine-tuned",
            target=Target.CLASS,
            classes=tuple(classes),
            dim=base.dim,
            fingerprint=fingerprint(spec),
            spec=spec,
            fit={},
            fit_digests=np.array([1, 2, 3], np.uint64),
            model=Affine(weight.astype(np.float32), np.zeros(len(classes), np.float32), Link.SOFTMAX),
        )
        bundle = Bundle(head=head, state=state_arrays(base.module), base=before["backbone"], **parts)
        return write_bundle(path, bundle)

    return make


@pytest.fixture
def realdata(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that gives the path of a data set of `tle.benchmarks.datasets`, or skips the test with the reason.

    Only for tests that are marked `realdata`. A download that takes longer than a test should ends in a skip as well.
    """
    if request.node.get_closest_marker("realdata") is None:
        raise pytest.UsageError(f"{request.node.nodeid} uses realdata without the mark @pytest.mark.realdata")
    monkeypatch.setattr(registries, "DOWNLOAD_TIMEOUT_S", 45)

    def fetch(name: str) -> Path:
        try:
            return datasets.DATASETS[name].fetch()
        except registries.DatasetUnavailableError as error:
            pytest.skip(f"{name} is not available: {error}")

    return fetch
