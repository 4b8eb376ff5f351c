"""Real caches on disk, made from arrays."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tle.cache import open_cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Target


@pytest.fixture(autouse=True)
def _one_thread():
    """Small products on shared cores run many times slower with several threads."""
    with threadpool_limits(1):
        yield


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda(request, monkeypatch):
    """The types of torch devices that `device="cuda"` puts rows on, small problems too: another one where cuda is not."""
    import torch

    from tle.heads.exact.design import Design

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    place, placed = Design.on_device, []

    def on_device(design, device):
        placed.append("cuda" if request.param == "cuda" else {"cuda": "cpu"}[device])
        return place(design, placed[-1])

    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Design, "on_device", on_device)
    return placed


@pytest.fixture
def make_cache(tmp_path):
    """make_cache(features, labels, ...) writes a cache and opens it."""
    numbers = iter(range(1000))

    def make(
        features,
        labels,
        *,
        classes=None,
        splits=None,
        target=Target.CLASS,
        digests=None,
        failed=(),
        dtype="float32",
        spec=None,
    ):
        n, dim = features.shape
        if classes is None:
            count = {Target.CLASS: lambda: int(labels.max()) + 1, Target.MULTILABEL: lambda: labels.shape[1]}
            classes = [f"class {index}" for index in range(count.get(target, lambda: 0)())]
        content = Content(
            ids=[f"{index:04}.png" for index in range(n)],
            labels=labels,
            classes=classes,
            splits=np.full(n, Split.NONE, np.uint8) if splits is None else np.asarray(splits, np.uint8),
            target=target,
            dim=dim,
            dtype=dtype,
            spec=spec
            or {
                "backbone": {"name": "x/y", "weights": "W", "weights_digest": "ab", "dim": dim},
                "preprocess": {"resize": 256, "crop": [224, 224]},
                "decoder": "pillow",
                "precision": "float32",
            },
            run={},
        )
        writer = CacheWriter.create(tmp_path / f"cache{next(numbers)}.h5", content)
        digests = np.arange(1, n + 1, dtype=np.uint64) if digests is None else digests
        good = np.setdiff1d(np.arange(n), failed)
        with writer:
            writer.write(good, features[good].astype(np.float32), digests[good])
            for index in failed:
                writer.fail(index, "truncated", 0)
            return open_cache(writer.finish(replace=False))

    return make


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits: (600, 64) float32 pixels with three constant columns, and their labels."""
    from sklearn.datasets import load_digits

    x_ND, y_N = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y_N))[:600]  # as stored, the writers follow one another
    return x_ND[order].astype(np.float32), y_N[order].astype(np.int64)


@pytest.fixture
def blobs():
    """blobs(n, dim, n_classes, seed): overlapping Gaussian classes, float32 features and int64 labels."""

    def make(n, dim, n_classes, seed=0, spread=1.0):
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % n_classes
        centres = rng.normal(size=(n_classes, dim))
        return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels.astype(np.int64)

    return make


@pytest.fixture
def make_task():
    """make_task(x, labels, n_val): the last n_val rows are val; no cache needed."""
    from tle.heads.samples import Samples, Task

    def make(x_ND, labels, n_val=0, *, target=Target.CLASS, n_classes=None, seed=0):
        n = len(labels) - n_val
        parts = [Samples(x_ND, rows, labels[rows]) for rows in (np.arange(n), np.arange(n, n + n_val))]
        if target is Target.REGRESSION:
            classes = ()
        else:
            count = labels.shape[1] if target is Target.MULTILABEL else n_classes or int(labels.max()) + 1
            classes = tuple(f"class {index}" for index in range(count))
        return Task(*parts, target, classes, seed)

    return make
