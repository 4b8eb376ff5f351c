"""Small networks that every runtime takes, the questions that every runtime has to answer, and a small extraction."""

import threading

import numpy as np
import pytest


@pytest.fixture(scope="session")
def make_backbone():
    """make_backbone(module, dim, crop=16, **preprocess): a backbone around a module of one's own."""
    from tle.backbones.backbone import Backbone, digest_state
    from tle.preprocess import Preprocess

    def make(module, dim, crop=16, name="own:Net", **preprocess):
        options = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear"}
        return Backbone(
            name=name,
            weights="none",
            weights_digest=digest_state(module.state_dict()),
            layer="output",
            pool="none",
            dim=dim,
            preprocess=Preprocess(resize=crop + 4, crop=(crop, crop), **(options | preprocess)),
            module=module.eval(),
        )

    return make


@pytest.fixture(scope="session")
def tiny(make_backbone):
    """Two convolutions with BatchNorm, 24 features of 16 x 16 pixels; nothing may change it."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        layers += [nn.Conv2d(8, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU()]
        return make_backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 24, name="own:Tiny")


@pytest.fixture(scope="session")
def lossy(make_backbone):
    """Small differences of large numbers: right in float32, and nothing left in 16 bits."""
    import torch

    class Lossy(torch.nn.Module):
        def forward(self, x):
            return (x.mean((2, 3)) + 4096.0) - 4096.0

    return make_backbone(Lossy(), 3, name="own:Lossy")


@pytest.fixture(scope="session")
def pictures():
    """pictures(n, seed=0, size=16): uint8 (n, size, size, 3), each of its own colour."""

    def make(n, seed=0, size=16):
        rng = np.random.default_rng(seed)
        colour = rng.integers(0, 160, (n, 1, 1, 3))
        return (colour + rng.integers(0, 96, (n, size, size, 3))).astype(np.uint8)

    return make


@pytest.fixture
def photos(tmp_path, make_images):
    """24 pictures of 48 pixels in two classes."""
    return make_images(tmp_path / "photos", ["cat", "dog"], 12, 48)


@pytest.fixture
def small_run():
    """Options of `tle.extract` for pictures of 48 pixels: nothing is downloaded, nothing is tried."""
    import tle

    return {
        "backbone": "torchvision/resnet18",
        "weights": "none",
        "overrides": tle.PreprocessOverrides(resize=40, crop=32),
        "execution": tle.Execution(runtime="torch", precision="float32", batch_size=4, workers=2),
    }


@pytest.fixture(scope="session")
def check_runtime(pictures):
    """check_runtime(backbone, plan, least_cosine=None): opens a runtime and holds it to what `Runtime` promises.

    Without `least_cosine` features have to be those of the reference to 1e-4 of the largest. Returns the runtime.
    """
    from tle.runtimes.runtime import open_runtime
    from tle.tuning.parity import compare_features

    def check(backbone, plan, least_cosine=None):
        size = backbone.preprocess.crop[0]
        runtime = open_runtime(backbone, plan, calibration=pictures(9, seed=1, size=size))
        reference, batch = open_runtime(backbone), plan.batch_size

        def near(features, expected):
            assert features.shape == expected.shape
            assert features.dtype == np.float32
            if least_cosine is None:
                np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
            else:
                assert compare_features(expected, features).min_cosine >= least_cosine

        for n in (1, batch, batch + 1, 2 * batch + 3):
            pixels = pictures(n, seed=n, size=size)
            before = pixels.copy()
            near(runtime(pixels), reference(pixels))
            np.testing.assert_array_equal(pixels, before)
        whole = runtime(pixels)
        scale = np.abs(whole).max()
        for row in (0, n // 2, n - 1):  # whatever else is in the batch
            alone = runtime(pixels[row : row + 1])[0]
            np.testing.assert_allclose(alone, whole[row], atol=scale * (1e-4 if least_cosine is None else 2e-2))
        _check_threads(runtime, [pictures(batch, seed, size) for seed in range(20, 26)])
        first = runtime(pixels[:batch])
        kept = first.copy()
        runtime(255 - pixels[:batch])
        np.testing.assert_array_equal(first, kept)  # the caller's own, whatever is computed next
        assert plan.precision in runtime.description
        assert runtime.device == plan.device
        return runtime

    return check


def _check_threads(runtime, batches):
    """Several threads at once get what one alone would get."""
    alone = [runtime(batch) for batch in batches]
    found = [[] for _ in batches]

    def work(number):
        for _ in range(5):
            found[number].append(runtime(batches[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, many in zip(alone, found, strict=True):
        assert len(many) == 5
        for features in many:
            np.testing.assert_allclose(features, one, atol=1e-3 * np.abs(one).max())
