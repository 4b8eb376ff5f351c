import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tle.finetuning.augmentation import Augmentation
from tle.finetuning.loader import Batch, PixelStore, eval_batches, train_batches
from tle.finetuning.sampling import class_balanced_weights, epoch_order
from tle.images import EXACT_DECODER, FAST_DECODER, load
from tle.pipeline import Decoding
from tle.preprocess import Preprocess
from tle.sources import Source, open_source

PREPROCESS = Preprocess(resize=28, crop=(24, 20), interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
EXACT, FAST = (
    Decoding(preprocess=PREPROCESS, decoder=decoder, max_pixels=10**6) for decoder in (EXACT_DECODER, FAST_DECODER)
)
N = 21


@pytest.fixture
def root(tmp_path: Path, make_images: Any) -> Path:
    return make_images(tmp_path / "photos", per_class=7, size=(40, 36))


@pytest.fixture
def source(root: Path) -> Source:
    return open_source(root)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were read, in the order of reading."""
    rows: list[int] = []
    plain = Source.read
    monkeypatch.setattr(Source, "read", lambda self, row: rows.append(row) or plain(self, row))
    return rows


def train(source: Source, rows: Iterable[int] = range(N), **options: Any) -> list[Batch]:
    augmentation = Augmentation(rand_augment=(1, 9))
    values: dict[str, Any] = {"batch_size": 4, "seed": 5, "epoch": 1, "workers": 2, "decoding": FAST, **options}
    return list(train_batches(source, np.array(list(rows), np.int64), augmentation=augmentation, **values))


def evaluate(source: Source, rows: Iterable[int] = range(N), **options: Any) -> list[Batch]:
    return list(
        eval_batches(source, np.array(list(rows)), **{"batch_size": 4, "workers": 2, "decoding": FAST, **options})
    )


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.number, one.failures) == (other.number, other.failures)
        np.testing.assert_array_equal(one.rows, other.rows)
        assert torch.equal(one.pixels, other.pixels)


def rows_of(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


# Training


def test_an_epoch_takes_every_picture_once_in_its_order(source: Source) -> None:
    rows = np.arange(2, 20)
    batches = train(source, rows)
    assert rows_of(batches) == rows[epoch_order(18, seed=5, epoch=1)].tolist()
    assert [batch.number for batch in batches] == [0, 1, 2, 3, 4]
    assert [len(batch.rows) for batch in batches] == [4, 4, 4, 4, 2]
    for batch in batches:
        assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (len(batch.rows), 24, 20, 3))


def test_the_number_of_threads_changes_nothing(source: Source) -> None:
    assert_same(train(source, workers=1), train(source, workers=4))


def test_epochs_and_seeds_give_other_views(source: Source) -> None:
    def view(**options: int) -> bytes:
        batches = train(source, batch_size=N, **options)
        return batches[0].pixels[int(np.flatnonzero(batches[0].rows == 3)[0])].numpy().tobytes()

    assert len({view(), view(epoch=2), view(seed=6), view(epoch=2, seed=6)}) == 4


@pytest.mark.parametrize("start", [0, 2, 5, 6])
def test_going_on_from_a_batch_gives_the_rest_and_decodes_no_more(source: Source, reads: list[int], start: int) -> None:
    whole = train(source)
    reads.clear()
    assert_same(train(source, start=start), whole[start:])
    assert len(reads) == N - min(4 * start, N)


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_two_processes_see_together_what_one_sees(
    source: Source, batch_size: int, drop_last: bool, weighted: bool
) -> None:
    options = {"drop_last": drop_last, "weights": class_balanced_weights(source.labels) if weighted else None}
    whole = train(source, batch_size=2 * batch_size, **options)
    parts = [train(source, batch_size=batch_size, rank=rank, world=2, **options) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for together, first, second in zip(whole, *parts, strict=True):
        assert len(together.rows) == len(first.rows) + len(second.rows)
        assert first.number == second.number == together.number
        for part, rank in ((first, 0), (second, 1)):
            np.testing.assert_array_equal(part.rows, together.rows[rank::2])
            assert torch.equal(part.pixels, together.pixels[rank::2])


def test_a_process_without_a_picture_of_the_last_batch_gets_an_empty_one(source: Source) -> None:
    other, last = (train(source, batch_size=2, rank=rank, world=2)[-1] for rank in range(2))
    assert last.pixels.shape == (0, 24, 20, 3)
    assert (len(other.rows), len(last.rows)) == (1, 0)


def test_drop_last_leaves_only_whole_batches(source: Source) -> None:
    batches = train(source, drop_last=True)
    assert [len(batch.rows) for batch in batches] == [4] * 5
    assert_same(batches, train(source)[:5])
    assert train(source, range(3), drop_last=True) == []


def test_balanced_sampling_shows_a_repeated_picture_differently(source: Source) -> None:
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 7])  # seven of the first class, one of the second
    weights = class_balanced_weights(source.labels[rows])
    (batch,) = train(source, rows, batch_size=8, weights=weights)
    repeated = np.flatnonzero(batch.rows == 7)
    assert len(batch.rows) == 8
    assert len(repeated) > 1
    assert len({batch.pixels[index].numpy().tobytes() for index in repeated}) == len(repeated)


@pytest.mark.parametrize("decoding", [EXACT, FAST])
def test_bad_pictures_are_recorded_and_left_out(root: Path, decoding: Decoding) -> None:
    good = train(open_source(root), decoding=decoding)
    source = open_source(root)
    source.path(4).write_bytes(source.path(4).read_bytes()[:-20])
    source.path(9).unlink()
    batches = train(source, decoding=decoding)
    failures = {row: reason for batch in batches for row, reason in batch.failures.items()}
    assert sorted(failures) == [4, 9]
    assert "truncated" in failures[4]
    assert failures[9] == "no such file"
    for batch, before in zip(batches, good, strict=True):
        stays = ~np.isin(before.rows, [4, 9])
        np.testing.assert_array_equal(batch.rows, before.rows[stays])
        assert torch.equal(batch.pixels, before.pixels[torch.from_numpy(stays)])
        assert sorted(batch.failures) == sorted(before.rows[~stays])


def test_a_batch_of_bad_pictures_alone_is_empty(source: Source) -> None:
    for row in range(3):
        source.path(row).write_bytes(b"not a picture")
    (batch,) = train(source, range(3))
    assert (len(batch.rows), len(batch.pixels), sorted(batch.failures)) == (0, 0, [0, 1, 2])


def test_what_nobody_takes_holds_the_threads_up(source: Source, reads: list[int]) -> None:
    """Memory stays flat, and a loop that is left leaves no thread behind."""
    threads = threading.active_count()
    batches = train_batches(
        source, np.arange(N), augmentation=Augmentation(), decoding=FAST, batch_size=2, seed=0, epoch=0, workers=2
    )
    next(batches)
    batches.close()
    assert len(reads) <= 6
    assert threading.active_count() == threads


def test_training_beside_it_keeps_its_threads(source: Source) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = train_batches(
            source, np.arange(N), augmentation=Augmentation(), decoding=FAST, batch_size=2, seed=0, epoch=0, workers=3
        )
        info = torch.__config__.parallel_info()
        next(batches)
        assert torch.__config__.parallel_info() == info  # of OpenMP and MKL as well
        batches.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_reaches_the_caller(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Source, row: int) -> bytes:
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr(Source, "read", fail)
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        train(source)


# Evaluation


@pytest.mark.parametrize("decoding", [EXACT, FAST])
@pytest.mark.parametrize("workers", [1, 3])
def test_evaluation_takes_extractions_pixels_in_order(source: Source, decoding: Decoding, workers: int) -> None:
    rows = [3, 4, 9, 11, 20]
    batches = evaluate(source, rows, decoding=decoding, workers=workers)
    assert rows_of(batches) == rows
    expected = [load(source.read(row), PREPROCESS, decoder=decoding.decoder) for row in rows]
    np.testing.assert_array_equal(np.concatenate([batch.pixels.numpy() for batch in batches]), expected)
    assert [len(batch.rows) for batch in batches] == [4, 1]


def test_no_rows_make_no_batches(source: Source) -> None:
    assert evaluate(source, np.zeros(0, np.int64)) == []


# Kept pixels


def open_store(source: Source, max_bytes: int) -> PixelStore:
    return PixelStore(source, np.arange(N), batch_size=4, workers=2, max_bytes=max_bytes, decoding=FAST)


BATCH_BYTES = 4 * 24 * 20 * 3


@pytest.mark.parametrize(("max_bytes", "kept"), [(0, 0), (BATCH_BYTES // 2, 0), (3 * BATCH_BYTES, 12), (1 << 20, N)])
def test_a_store_decodes_again_only_what_does_not_fit(
    source: Source, reads: list[int], max_bytes: int, kept: int
) -> None:
    source.path(2).write_bytes(b"not a picture")
    expected = evaluate(source)
    store = open_store(source, max_bytes)
    for passes in range(3):
        reads.clear()
        assert_same(list(store.batches()), expected)
        assert sorted(reads) == list(range(kept if passes else 0, N))
        assert store.n_kept == kept - (kept > 2)


def test_a_pass_that_is_given_up_is_no_gap(source: Source) -> None:
    store = open_store(source, 1 << 20)
    batches = store.batches()
    next(batches), next(batches)
    batches.close()
    assert store.n_kept == 8
    assert_same(list(store.batches()), evaluate(source))


def test_a_small_batch_after_one_that_does_not_fit_is_not_kept(source: Source) -> None:
    """The last batch holds one picture: there is room for it, but not for those before."""
    store = open_store(source, BATCH_BYTES + BATCH_BYTES // 2)
    for _ in range(2):
        assert_same(list(store.batches()), evaluate(source))
        assert store.n_kept == 4
