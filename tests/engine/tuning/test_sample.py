import numpy as np
import pytest
from PIL import Image

from tle.images import EXACT_DECODER, FAST_DECODER
from tle.preprocess import Preprocess
from tle.sources import open_source
from tle.tuning.sample import Sample, take_sample

PREPROCESS = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def numbered(tmp_path):
    """numbered(n, bad=()): n grey pictures in two classes, as bright as their row; those of `bad` are none."""

    def make(n, bad=()):
        for row in range(n):
            folder = tmp_path / "photos" / ("a" if row < n // 2 else "b")
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{row:03d}.png"
            Image.new("L", (16, 16), row).save(path)
            if row in bad:
                path.write_bytes(b"no picture")
        return open_source(tmp_path / "photos")

    return make


def rows_of(source, n, workers=2, **options):
    options = {"decoder": EXACT_DECODER, "max_pixels": 10**6} | options
    sample = take_sample(source, PREPROCESS, n, workers=workers, **options)
    assert sample.exact.dtype == np.uint8
    assert sample.exact.shape == sample.pixels.shape == (len(sample), 16, 16, 3)
    return sample.exact[:, 0, 0, 0].tolist()


def test_pictures_come_from_all_over_the_source(numbered):
    assert rows_of(numbered(40), 4) == [5, 15, 25, 35]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("total", "n"), [(4, 10), (7, 7), (1, 32), (5, 4)])
def test_small_sources_are_taken_whole_and_none_twice(numbered, total, n, workers):
    rows = rows_of(numbered(total), n, workers)
    assert len(rows) == len(set(rows)) == min(total, n)


def test_others_stand_in_for_bad_pictures(numbered):
    rows = rows_of(numbered(40, bad={5, 15, 25, 36}), 4)
    assert len(rows) == len(set(rows)) == 4
    assert not {5, 15, 25} & set(rows)
    assert 35 in rows


def test_fewer_good_ones_than_wanted(numbered):
    assert sorted(rows_of(numbered(12, bad=set(range(12)) - {3, 10}), 8)) == [3, 10]


def test_not_one_good_picture(numbered):
    for decoder in (EXACT_DECODER, FAST_DECODER):
        assert rows_of(numbered(5, bad=set(range(5))), 4, decoder=decoder) == []


def test_pictures_over_the_limit_are_left_out(numbered, tmp_path):
    numbered(6)
    Image.new("L", (40, 40), 99).save(tmp_path / "photos" / "a" / "large.png")
    assert 99 not in rows_of(open_source(tmp_path / "photos"), 7, max_pixels=300)
    assert 99 in rows_of(open_source(tmp_path / "photos"), 7)


def test_jpegs_are_decoded_both_ways(tmp_path, make_images):
    source = open_source(make_images(tmp_path / "photos", size=200))
    preprocess = PREPROCESS.replace(resize=20)
    options = {"max_pixels": 10**6, "workers": 2}
    sample = take_sample(source, preprocess, 6, decoder=FAST_DECODER, **options)
    exact = take_sample(source, preprocess, 6, decoder=EXACT_DECODER, **options)
    assert exact.pixels is exact.exact
    np.testing.assert_array_equal(sample.exact, exact.exact)
    assert (sample.exact != sample.pixels).any()
    assert np.abs(sample.exact.astype(int) - sample.pixels).max() < 9  # the same pictures in the same order


def test_parts_are_taken_from_both():
    exact = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    sample = Sample(exact, exact + 100)
    assert sample.part(1, 2).exact.ravel().tolist() == [1, 3]
    assert sample.part(0, 2).pixels.ravel().tolist() == [100, 102, 104]
    same = Sample(exact, exact).part(0, 2)
    assert same.pixels is same.exact


def test_a_source_is_spread_over_its_classes(numbered):
    source = numbered(40)
    some = source.spread(4)
    assert [name.split("/")[-1] for name in some.ids] == ["000.png", "010.png", "020.png", "030.png"]
    assert some.labels.tolist() == [0, 0, 1, 1]
    assert len(some.splits) == len(some) == 4
    assert some.path(2) == source.path(20)
    assert some.classes == source.classes
    assert source.spread(40) is source
    assert source.spread(99) is source
    assert source.spread(1).ids == source.ids[:1]


def test_pictures_with_odd_names_are_still_found_when_spread(tmp_path):
    for number in range(9):
        name = b"a\xff%d.png" % number if number % 2 else b"a%d.png" % number
        Image.new("L", (4, 4), number).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(bytes(tmp_path).decode() + "/" + name.decode(errors="surrogateescape"))
    some = open_source(tmp_path).spread(4)
    assert all(some.read(row) for row in range(4))
    assert some.odd_paths
