"""Running `tle.extract` again after a stop or a crash: what was done is kept, and the run goes on."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tle
from tle import pipeline
from tle.cache import writer as cache_writer
from tle.cache.claim import Claim
from tle.enums import Status
from tle.errors import CacheError, FingerprintError, ImageError, OutputError
from tle.files import part_path


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): the next extraction is interrupted, as by Ctrl-C, once n pictures are written; then no more."""

    def arm(n, error=KeyboardInterrupt):
        checkpoint = cache_writer.CacheWriter.checkpoint

        def checked(self):
            self.commit()
            if len(self.status) - len(self.pending) >= n:
                monkeypatch.setattr(cache_writer.CacheWriter, "checkpoint", checkpoint)
                raise error
            checkpoint(self)

        monkeypatch.setattr(cache_writer.CacheWriter, "checkpoint", checked)

    return arm


def content(path):
    cache = tle.open_cache(path)
    names = ("features", "labels", "ids", "status", "digests", "files", "checksums", "splits", "classes")
    return {name: cache.raw(name).tobytes() for name in names} | {"failures": cache.failures}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, photos, stop_after, small_run):
    (photos / "cat" / "003.jpg").write_bytes(b"no picture")
    tle.extract(photos, tmp_path / "whole.h5", **small_run)
    path = tmp_path / "c.h5"
    for n, done in ((8, 8), (16, 16)):
        stop_after(n)
        with pytest.raises(KeyboardInterrupt, match=f"{done} of 24 pictures are kept in .*c.h5.part, the same command"):
            tle.extract(photos, path, **small_run)
        assert not path.exists()
        assert (tle.open_cache(part_path(path)).status != Status.PENDING).sum() == done
    result = tle.extract(photos, path, **small_run)
    assert (result.n_images, result.n_extracted, result.n_failed) == (24, 8, 1)
    assert any("16 of 24 pictures are done" in note for note in result.notes)
    assert content(path) == content(tmp_path / "whole.h5")
    assert not part_path(path).exists()
    assert tle.extract(photos, path, **small_run).already_done


def test_what_is_done_is_not_read_again(tmp_path, photos, stop_after, monkeypatch, small_run):
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, tmp_path / "c.h5", **small_run)
    decoded, original = [], pipeline.decode

    def counted(source, row, decoding, out):
        decoded.append(source.ids[row])
        return original(source, row, decoding, out)

    monkeypatch.setattr(pipeline, "decode", counted)
    tle.extract(photos, tmp_path / "c.h5", **small_run)
    assert sorted(decoded) == list(tle.open_source(photos).ids[8:])


def test_other_options_meet_an_unfinished_run(tmp_path, photos, stop_after, small_run):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **small_run)
    before = part_path(path).read_bytes()
    with pytest.raises(FingerprintError, match=r"c\.h5\.part holds .*dtype: float16.* left by an interrupted run"):
        tle.extract(photos, path, dtype="float16", **small_run)
    with pytest.raises(FingerprintError, match="layer: layer3"):
        tle.extract(photos, path, layer="layer3", **small_run)
    assert part_path(path).read_bytes() == before
    result = tle.extract(photos, path, layer="layer3", overwrite=True, **small_run)
    assert (result.n_extracted, result.dim) == (24, 256)
    assert any("dropped" in note for note in result.notes)


def test_another_plan_takes_the_rows_over_and_says_so(tmp_path, photos, stop_after, small_run):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **small_run)
    onnx = tle.Execution(runtime="onnxruntime", precision="float32", batch_size=2, workers=2)
    result = tle.extract(photos, path, **(small_run | {"execution": onnx}))
    assert result.n_extracted == 16
    run = tle.open_cache(path).run
    assert "onnxruntime" in run["runtime"]
    assert [earlier["runtime"].split()[0] for earlier in run["earlier"]] == ["torch"]
    tle.extract(photos, tmp_path / "whole.h5", **small_run)
    whole = tle.open_cache(tmp_path / "whole.h5").features
    np.testing.assert_allclose(tle.open_cache(path).features, whole, rtol=1e-3, atol=1e-4)


def test_left_open_the_plan_is_that_of_the_interrupted_run(tmp_path, photos, stop_after, small_run):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **small_run)
    result = tle.extract(photos, path, **(small_run | {"execution": tle.Execution(workers=2)}))
    cache = tle.open_cache(path)
    assert (result.batch_size, cache.run["plan"]["runtime"]) == (4, "torch")
    assert "earlier" not in cache.run


def test_an_interrupted_update_goes_on(tmp_path, photos, make_images, stop_after, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    before = path.read_bytes()
    make_images(photos, ["eel"], 12, 48)
    stop_after(28)
    with pytest.raises(KeyboardInterrupt, match="28 of 36"):
        tle.extract(photos, path, **small_run)
    assert path.read_bytes() == before  # the finished one serves its readers all the while
    result = tle.extract(photos, path, **small_run)
    assert (result.n_images, result.n_extracted) == (36, 8)


def test_pictures_that_change_between_two_halves_of_a_run(tmp_path, photos, make_images, stop_after, small_run):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **small_run)
    make_images(photos, ["ape"], 2, 48)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "000.jpg")
    result = tle.extract(photos, path, **small_run)
    assert (result.n_images, result.n_extracted) == (26, 19)
    fresh = tle.open_cache(tle.extract(photos, tmp_path / "fresh.h5", **small_run).path)
    np.testing.assert_allclose(tle.open_cache(path).features, fresh.features, rtol=1e-4, atol=1e-5)


def test_a_damaged_unfinished_file_is_said_and_dropped_on_request(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    part_path(path).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    with pytest.raises(CacheError, match=r"c\.h5\.part .* left by an interrupted run"):
        tle.extract(photos, path, **small_run)
    assert tle.extract(photos, path, overwrite=True, **small_run).n_extracted == 24


def test_strict_keeps_what_was_done_before(tmp_path, photos, small_run):
    bad = photos / "dog" / "005.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    path = tmp_path / "c.h5"
    with pytest.raises(ImageError, match=r"dog/005\.jpg.*--strict\); 16 of 24 pictures are kept"):
        tle.extract(photos, path, strict=True, **small_run)
    bad.write_bytes(good)
    assert tle.extract(photos, path, strict=True, **small_run).n_extracted == 8


def test_float16_overflow_in_the_middle_is_one_line(tmp_path, photos, monkeypatch, small_run):
    (tmp_path / "bignet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean((2, 3)) * torch.where(x.amin((1, 2, 3)) > 2.2, 1e6, 1.0)[:, None]\n"
    )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 48), "white").save(photos / "dog" / "020.png")
    options = small_run | {"backbone": "bignet:Net", "weights": "DEFAULT", "layer": "output"}
    with pytest.raises(
        CacheError, match=r"does not fit float16 .* --dtype float32.*24 of 25 pictures are kept"
    ) as caught:
        tle.extract(photos, tmp_path / "c.h5", dtype="float16", **options)
    assert "\n" not in str(caught.value)
    result = tle.extract(photos, tmp_path / "c.h5", dtype="float32", overwrite=True, **options)
    cache = tle.open_cache(result.path)
    assert np.isfinite(cache.features).all()
    assert np.abs(cache.features).max() > 65504


def test_a_second_run_on_the_same_cache_is_one_line(tmp_path, photos, small_run):
    claim = Claim(tmp_path / "c.h5")
    with pytest.raises(OutputError, match="another process is writing"):
        tle.extract(photos, tmp_path / "c.h5", **small_run)
    claim.release()
    assert tle.extract(photos, tmp_path / "c.h5", **small_run).n_extracted == 24


def test_the_unfinished_file_may_vanish_during_a_run(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"

    def remove():
        while not part_path(path).exists():
            time.sleep(0.001)
        part_path(path).unlink()

    thread = threading.Thread(target=remove)
    thread.start()
    result = tle.extract(photos, path, **small_run)
    thread.join()
    assert result.n_extracted == 24
    assert tle.verify(path).sound
    assert sorted(os.listdir(tmp_path)) == ["c.h5", "photos"]


def test_a_list_of_failures_that_is_there_is_not_changed_in_place(tmp_path, photos, monkeypatch, small_run):
    """A run that got as far as its last step, and pictures that are mended before the next one."""
    good = {}
    for number in range(0, 12, 2):
        bad = photos / "dog" / f"{number:03}.jpg"
        good[bad] = bad.read_bytes()
        bad.write_bytes(b"no picture")
    path, rename = tmp_path / "c.h5", Path.replace

    def refuse(self, target):
        if target == path:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot finish .*Permission denied; 24 of 24 pictures are kept"):
        tle.extract(photos, path, **small_run)
    assert len(tle.open_cache(part_path(path)).structure.failures) == 6
    monkeypatch.undo()
    for bad, data in good.items():
        bad.write_bytes(data)
    result = tle.extract(photos, path, **small_run)
    assert (result.n_extracted, result.n_failed) == (6, 0)
    assert tle.verify(path, images=photos).sound


def test_a_run_that_only_lacks_its_last_step(tmp_path, photos, monkeypatch, small_run):
    (photos / "dog" / "000.jpg").write_bytes(b"no picture")
    path, rename = tmp_path / "c.h5", Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: 1 / 0 if to == path else rename(self, to))
    with pytest.raises(ZeroDivisionError):
        tle.extract(photos, path, **small_run)
    monkeypatch.undo()
    inode = part_path(path).stat().st_ino
    assert tle.extract(photos, path, **small_run).n_extracted == 0
    assert path.stat().st_ino == inode  # renamed, and nothing copied
    assert tle.verify(path).sound


def test_features_of_two_kinds_do_not_meet(tmp_path, photos, make_images, stop_after, small_run):
    """The finished cache is exact, what an --overwrite left is not; each would do alone."""
    path = tmp_path / "c.h5"
    exact = dataclasses.replace(small_run["execution"], exact_decode=True)
    tle.extract(photos, path, **(small_run | {"execution": exact}))
    before = path.read_bytes()
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, overwrite=True, **small_run)
    make_images(photos, ["ape"], 2, 48)
    with pytest.raises(FingerprintError, match="features of two kinds .*decoder"):
        tle.extract(photos, path, **small_run)
    assert path.read_bytes() == before
    assert tle.extract(photos, path, overwrite=True, **small_run).n_extracted == 18


def test_overwrite_uses_no_rows_of_the_cache_that_it_replaces(tmp_path, photos, make_images, stop_after, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    make_images(photos, ["ape"], 8, 48)
    stop_after(28)
    with pytest.raises(KeyboardInterrupt):  # its unfinished file holds rows of the finished one
        tle.extract(photos, path, **small_run)
    stop_after(8)
    with pytest.raises(KeyboardInterrupt, match="8 of 32"):
        tle.extract(photos, path, overwrite=True, **small_run)
    assert tle.extract(photos, path, overwrite=True, **small_run).n_extracted == 24  # goes on with its own


def test_another_limit_of_pixels_is_written_down_truly(tmp_path, photos, stop_after, small_run):
    Image.new("RGB", (200, 200)).save(photos / "cat" / "000.jpg")
    path = tmp_path / "c.h5"
    execution = small_run["execution"]
    low, high = (small_run | {"execution": dataclasses.replace(execution, max_pixels=n)} for n in (5000, 1_000_000))
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **low)
    with pytest.raises(OutputError, match="--max-pixels 5000, now it is 1000000"):
        tle.extract(photos, path, **high)
    assert tle.extract(photos, path, **low).n_failed == 1
    assert tle.open_cache(path).run["max_pixels"] == 5000
