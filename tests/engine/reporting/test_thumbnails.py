import base64
import io

import pytest
from PIL import Image

from tle.reporting.thumbnails import Thumbnails
from tle.sources import open_source


@pytest.fixture
def source(make_images, tmp_path):
    return open_source(make_images(tmp_path, ["cat"], 6, (240, 120)))


def opened(uri):
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_thumbnails_keep_their_shape_within_the_side(source):
    found = Thumbnails(source, max_pixels=10**6).make([4, 1], side=60)
    assert list(found) == [4, 1]
    assert {opened(uri).size for uri in found.values()} == {(60, 30)}


def test_tiny_pictures_are_enlarged_pixel_by_pixel(make_images, tmp_path):
    source = open_source(make_images(tmp_path / "tiny", ["cat"], 1, (8, 8), suffix=".png"))
    image = opened(Thumbnails(source, max_pixels=10**6).make([0], side=84)[0])
    assert image.size == (80, 80)


def test_beyond_the_budget_nothing_is_made_and_that_is_said(source):
    thumbnails = Thumbnails(source, max_pixels=10**6)
    whole = thumbnails.make(range(6), side=60)
    assert thumbnails.notes() == []
    small = Thumbnails(source, max_pixels=10**6, budget=sum(map(len, whole.values())) - 1)
    assert list(small.make(range(6), side=60)) == [0, 1, 2, 3, 4]
    assert small.make([0, 1], side=60) == {}  # the rest of the budget holds none of them
    assert small.notes() == ["3 thumbnails left out to keep the page small"]


def test_a_picture_that_went_away_is_counted(source):
    source.path(2).unlink()
    thumbnails = Thumbnails(source, max_pixels=10**6)
    assert list(thumbnails.make(range(4), side=60)) == [0, 1, 3]
    assert "1 thumbnail left out: the picture can no longer be decoded in full" in thumbnails.notes()
