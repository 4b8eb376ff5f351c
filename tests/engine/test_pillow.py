import threading
import warnings

import pytest
from PIL import Image

from tle import pillow


def warns(category: type[Warning]) -> bool:
    """Whether a warning of this category gets through here and now, as an error."""
    try:
        warnings.warn("boo", category, stacklevel=1)
    except Warning:
        return True
    return False


def test_silences_pillow_only_inside_and_only_in_this_thread() -> None:
    seen = {}
    with pillow.decoding(100):
        assert not warns(UserWarning)
        assert not warns(Image.DecompressionBombWarning)
        assert not warns(DeprecationWarning)
        thread = threading.Thread(target=lambda: seen.update(other=warns(UserWarning)))
        thread.start()
        thread.join()
    assert seen == {"other": True}
    assert warns(UserWarning)


def test_warnings_come_back_after_an_exception() -> None:
    with pytest.raises(KeyError), pillow.decoding(100):
        raise KeyError
    assert warns(UserWarning)


def test_stays_silent_where_someone_puts_a_filter_before_ours() -> None:
    with pillow.decoding(100):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pillow.decoding(100):
            assert not warns(UserWarning)


def test_adds_one_filter_and_not_one_a_picture() -> None:
    with pillow.decoding(100):
        before = len(warnings.filters)
    for _ in range(10):
        with pillow.decoding(100):
            assert len(warnings.filters) == before


def test_leaves_pillows_limit_alone_at_the_default() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    with pillow.decoding(2 * limit):
        assert limit == Image.MAX_IMAGE_PIXELS


def test_raises_the_limit_for_as_long_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pillow.decoding(101):
        assert Image.MAX_IMAGE_PIXELS == 51
        with pillow.decoding(15):
            assert Image.MAX_IMAGE_PIXELS == 51
        with pillow.decoding(400):
            assert Image.MAX_IMAGE_PIXELS == 200
        assert Image.MAX_IMAGE_PIXELS == 200
    assert Image.MAX_IMAGE_PIXELS == 10


def test_does_not_undo_what_the_program_sets_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pillow.decoding(100):
        Image.MAX_IMAGE_PIXELS = 1234
    assert Image.MAX_IMAGE_PIXELS == 1234


def test_no_limit_stays_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pillow.decoding(10**12):
        assert Image.MAX_IMAGE_PIXELS is None
