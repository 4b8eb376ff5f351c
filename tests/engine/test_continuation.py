"""Running `tle.extract` again: after a stop, after a crash, after the pictures changed."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import tle
from tle import pipeline, stock
from tle.cache import writer as cache_writer
from tle.cache.claim import Claim
from tle.enums import Status
from tle.errors import CacheError, FingerprintError, ImageError, OutputError
from tle.files import part_path

SMALL = tle.PreprocessOverrides(resize=40, crop=32)
FIXED = tle.Execution(runtime="torch", precision="float32", batch_size=4, workers=2)
OPTIONS = {"backbone": "torchvision/resnet18", "weights": "none", "overrides": SMALL, "execution": FIXED}


@pytest.fixture
def photos(tmp_path, make_images):
    return make_images(tmp_path / "photos", ["cat", "dog"], 12, 48)


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


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, photos, stop_after):
    (photos / "cat" / "003.jpg").write_bytes(b"no picture")
    tle.extract(photos, tmp_path / "whole.h5", **OPTIONS)
    path = tmp_path / "c.h5"
    for n, done in ((8, 8), (16, 16)):
        stop_after(n)
        with pytest.raises(KeyboardInterrupt, match=f"{done} of 24 pictures are kept in .*c.h5.part, the same command"):
            tle.extract(photos, path, **OPTIONS)
        assert not path.exists()
        assert (tle.open_cache(part_path(path)).status != Status.PENDING).sum() == done
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_images, result.n_extracted, result.n_failed) == (24, 8, 1)
    assert any("16 of 24 pictures are done" in note for note in result.notes)
    assert content(path) == content(tmp_path / "whole.h5")
    assert not part_path(path).exists()
    assert tle.extract(photos, path, **OPTIONS).already_done


def test_what_is_done_is_not_read_again(tmp_path, photos, stop_after, monkeypatch):
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, tmp_path / "c.h5", **OPTIONS)
    decoded, original = [], pipeline.decode

    def counted(source, row, decoding, out):
        decoded.append(source.ids[row])
        return original(source, row, decoding, out)

    monkeypatch.setattr(pipeline, "decode", counted)
    tle.extract(photos, tmp_path / "c.h5", **OPTIONS)
    assert sorted(decoded) == list(tle.open_source(photos).ids[8:])


def test_other_options_meet_an_unfinished_run(tmp_path, photos, stop_after):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **OPTIONS)
    before = part_path(path).read_bytes()
    with pytest.raises(FingerprintError, match=r"c\.h5\.part holds .*dtype: float16.* left by an interrupted run"):
        tle.extract(photos, path, dtype="float16", **OPTIONS)
    with pytest.raises(FingerprintError, match="layer: layer3"):
        tle.extract(photos, path, layer="layer3", **OPTIONS)
    assert part_path(path).read_bytes() == before
    result = tle.extract(photos, path, layer="layer3", overwrite=True, **OPTIONS)
    assert (result.n_extracted, result.dim) == (24, 256)
    assert any("dropped" in note for note in result.notes)


def test_another_plan_takes_the_rows_over_and_says_so(tmp_path, photos, stop_after):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **OPTIONS)
    onnx = tle.Execution(runtime="onnxruntime", precision="float32", batch_size=2, workers=2)
    result = tle.extract(photos, path, **(OPTIONS | {"execution": onnx}))
    assert result.n_extracted == 16
    run = tle.open_cache(path).run
    assert "onnxruntime" in run["runtime"]
    assert [earlier["runtime"].split()[0] for earlier in run["earlier"]] == ["torch"]
    tle.extract(photos, tmp_path / "whole.h5", **OPTIONS)
    whole = tle.open_cache(tmp_path / "whole.h5").features
    np.testing.assert_allclose(tle.open_cache(path).features, whole, rtol=1e-3, atol=1e-4)


def test_left_open_the_plan_is_that_of_the_interrupted_run(tmp_path, photos, stop_after):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **OPTIONS)
    result = tle.extract(photos, path, **(OPTIONS | {"execution": tle.Execution(workers=2)}))
    cache = tle.open_cache(path)
    assert (result.batch_size, cache.run["plan"]["runtime"]) == (4, "torch")
    assert "earlier" not in cache.run


def test_new_changed_and_removed_pictures(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    before = tle.open_cache(path)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "000.jpg")
    shutil.copyfile(photos / "dog" / "000.jpg", photos / "bird.jpg")
    (photos / "bird.jpg").rename(photos / "dog" / "0005.jpg")
    (photos / "dog" / "011.jpg").unlink()
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_images, result.n_extracted) == (24, 2)
    assert any("22 pictures as before, 1 new, 1 changed, 1 gone" in note for note in result.notes)
    cache = tle.open_cache(path)
    assert cache.ids == tle.open_source(photos).ids
    fresh = tle.open_cache(tle.extract(photos, tmp_path / "fresh.h5", **OPTIONS).path)
    np.testing.assert_allclose(cache.features, fresh.features, rtol=1e-4, atol=1e-5)
    assert cache.digests.tolist() == fresh.digests.tolist()
    assert cache.labels.tolist() == fresh.labels.tolist()
    kept = [name for name in cache.ids if name in before.ids and name != "cat/000.jpg"]
    for name in kept:  # taken over, bit for bit
        np.testing.assert_array_equal(cache.features[cache.ids.index(name)], before.features[before.ids.index(name)])
    assert tle.verify(path).sound
    assert tle.extract(photos, path, **OPTIONS).already_done


def test_new_labels_alone_cost_no_extraction(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    before = tle.open_cache(path)
    (photos / "m.csv").write_text(
        "path,label\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(before.ids))
    )
    result = tle.extract(photos / "m.csv", path, **OPTIONS)
    assert (result.n_extracted, result.already_done) == (0, False)
    cache = tle.open_cache(path)
    assert cache.classes == ("0", "1", "2")
    np.testing.assert_array_equal(cache.features, before.features)


def test_an_interrupted_update_goes_on(tmp_path, photos, make_images, stop_after):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    before = path.read_bytes()
    make_images(photos, ["eel"], 12, 48)
    stop_after(28)
    with pytest.raises(KeyboardInterrupt, match="28 of 36"):
        tle.extract(photos, path, **OPTIONS)
    assert path.read_bytes() == before  # the finished one serves its readers all the while
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_images, result.n_extracted) == (36, 8)


def test_pictures_that_change_between_two_halves_of_a_run(tmp_path, photos, make_images, stop_after):
    path = tmp_path / "c.h5"
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **OPTIONS)
    make_images(photos, ["ape"], 2, 48)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "000.jpg")
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_images, result.n_extracted) == (26, 19)
    fresh = tle.open_cache(tle.extract(photos, tmp_path / "fresh.h5", **OPTIONS).path)
    np.testing.assert_allclose(tle.open_cache(path).features, fresh.features, rtol=1e-4, atol=1e-5)


def test_a_touched_picture_is_compared_and_kept(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    os.utime(photos / "cat" / "000.jpg", (1, 1))
    assert tle.extract(photos, path, **OPTIONS).already_done


def test_a_change_that_hides_is_found_where_inputs_are_verified(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    changed = photos / "cat" / "000.jpg"
    status, data = changed.stat(), bytearray(changed.read_bytes())
    data[-20] ^= 1
    changed.write_bytes(data)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tle.extract(photos, path, **OPTIONS).already_done
    result = tle.extract(photos, path, verify_inputs=True, **OPTIONS)
    assert (result.already_done, result.n_extracted) == (False, 1)


def test_failed_pictures_are_tried_again_on_request(tmp_path, photos):
    path, bad = tmp_path / "c.h5", photos / "cat" / "000.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    (photos / "dog" / "001.jpg").write_bytes(b"no picture either")
    assert tle.extract(photos, path, **OPTIONS).n_failed == 2
    assert tle.extract(photos, path, **OPTIONS).already_done
    result = tle.extract(photos, path, retry_failed=True, **OPTIONS)
    assert (result.n_extracted, result.n_failed, result.already_done) == (2, 2, False)
    bad.write_bytes(good)  # a picture that is another now is tried without being asked for
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_extracted, result.n_failed) == (1, 1)


def test_damaged_rows_are_not_taken_over(tmp_path, photos, make_images):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    good = tle.open_cache(path).features.copy()
    slot = tle.open_cache(path).slots["features"]
    with path.open("r+b") as file:
        file.seek(slot.offset + 3 * slot.row_bytes)
        file.write(b"\xff\x00\xff")
    make_images(photos, ["eel"], 1, 48)
    result = tle.extract(photos, path, **OPTIONS)
    assert result.n_extracted == 2
    assert any("1 rows of" in note and "damaged" in note for note in result.notes)
    np.testing.assert_allclose(tle.open_cache(path).features[:24], good, rtol=1e-4, atol=1e-5)


def test_repaired_rows_are_extracted_by_the_next_run(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    slot = tle.open_cache(path).slots["features"]
    with path.open("r+b") as file:
        file.seek(slot.offset + 3 * slot.row_bytes)
        file.write(b"\xff\x00\xff")
    assert tle.verify(path, images=photos, repair=True).repaired == (3,)
    assert tle.extract(photos, path, **OPTIONS).n_extracted == 1
    assert tle.verify(path, images=photos).sound


def test_verify_compares_with_the_pictures(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "004.jpg")
    (photos / "dog" / "000.jpg").unlink()
    result = tle.verify(path, images=photos)
    assert (result.changed, result.missing, result.damaged) == ((4,), (12,), ())
    assert result.names == {4: "cat/004.jpg", 12: "dog/000.jpg"}


def test_a_damaged_unfinished_file_is_said_and_dropped_on_request(tmp_path, photos):
    path = tmp_path / "c.h5"
    part_path(path).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    with pytest.raises(CacheError, match=r"c\.h5\.part .* left by an interrupted run"):
        tle.extract(photos, path, **OPTIONS)
    assert tle.extract(photos, path, overwrite=True, **OPTIONS).n_extracted == 24


def test_strict_keeps_what_was_done_before(tmp_path, photos):
    bad = photos / "dog" / "005.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    path = tmp_path / "c.h5"
    with pytest.raises(ImageError, match=r"dog/005\.jpg.*--strict\); 16 of 24 pictures are kept"):
        tle.extract(photos, path, strict=True, **OPTIONS)
    bad.write_bytes(good)
    assert tle.extract(photos, path, strict=True, **OPTIONS).n_extracted == 8


def test_float16_overflow_in_the_middle_is_one_line(tmp_path, photos, monkeypatch):
    (tmp_path / "bignet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean((2, 3)) * torch.where(x.amin((1, 2, 3)) > 2.2, 1e6, 1.0)[:, None]\n"
    )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 48), "white").save(photos / "dog" / "020.png")
    options = OPTIONS | {"backbone": "bignet:Net", "weights": "DEFAULT", "layer": "output"}
    with pytest.raises(
        CacheError, match=r"does not fit float16 .* --dtype float32.*24 of 25 pictures are kept"
    ) as caught:
        tle.extract(photos, tmp_path / "c.h5", dtype="float16", **options)
    assert "\n" not in str(caught.value)
    result = tle.extract(photos, tmp_path / "c.h5", dtype="float32", overwrite=True, **options)
    cache = tle.open_cache(result.path)
    assert np.isfinite(cache.features).all()
    assert np.abs(cache.features).max() > 65504


def test_a_second_run_on_the_same_cache_is_one_line(tmp_path, photos):
    claim = Claim(tmp_path / "c.h5")
    with pytest.raises(OutputError, match="another process is writing"):
        tle.extract(photos, tmp_path / "c.h5", **OPTIONS)
    claim.release()
    assert tle.extract(photos, tmp_path / "c.h5", **OPTIONS).n_extracted == 24


def test_the_unfinished_file_may_vanish_during_a_run(tmp_path, photos):
    path = tmp_path / "c.h5"

    def remove():
        while not part_path(path).exists():
            time.sleep(0.001)
        part_path(path).unlink()

    thread = threading.Thread(target=remove)
    thread.start()
    result = tle.extract(photos, path, **OPTIONS)
    thread.join()
    assert result.n_extracted == 24
    assert tle.verify(path).sound
    assert sorted(os.listdir(tmp_path)) == ["c.h5", "photos"]


def test_what_is_left_beside_a_complete_cache_is_said(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    part_path(path).write_bytes(b"old")
    assert any("not needed any more" in note for note in tle.extract(photos, path, **OPTIONS).notes)
    assert part_path(path).read_bytes() == b"old"


def test_nothing_to_do_loads_no_torch_and_reads_no_picture(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    code = (
        "import sys, tle\n"
        "tle.Source.read = None\n"
        "result = tle.extract(sys.argv[1], sys.argv[2], backbone='torchvision/resnet18', weights='none',\n"
        "    overrides=tle.PreprocessOverrides(resize=40, crop=32), execution=tle.Execution(precision='float32'))\n"
        "print(result.already_done, 'torch' in sys.modules, any('random weights' in note for note in result.notes))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, photos, path], capture_output=True, text=True, check=True)
    assert done.stdout == "True False True\n"


def test_a_cache_of_another_reference_is_looked_at_closely(tmp_path, photos):
    """The same network by another name: its file of weights; nothing to do all the same, but found by its digest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    result = tle.extract(photos, path, **(OPTIONS | {"weights": str(tmp_path / "w.pth")}))
    assert result.already_done


def test_a_list_of_failures_that_is_there_is_not_changed_in_place(tmp_path, photos, monkeypatch):
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
        tle.extract(photos, path, **OPTIONS)
    assert len(tle.open_cache(part_path(path)).structure.failures) == 6
    monkeypatch.undo()
    for bad, data in good.items():
        bad.write_bytes(data)
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_extracted, result.n_failed) == (6, 0)
    assert tle.verify(path, images=photos).sound


def test_a_run_that_only_lacks_its_last_step(tmp_path, photos, monkeypatch):
    (photos / "dog" / "000.jpg").write_bytes(b"no picture")
    path, rename = tmp_path / "c.h5", Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: 1 / 0 if to == path else rename(self, to))
    with pytest.raises(ZeroDivisionError):
        tle.extract(photos, path, **OPTIONS)
    monkeypatch.undo()
    inode = part_path(path).stat().st_ino
    assert tle.extract(photos, path, **OPTIONS).n_extracted == 0
    assert path.stat().st_ino == inode  # renamed, and nothing copied
    assert tle.verify(path).sound


def test_features_of_two_kinds_do_not_meet(tmp_path, photos, make_images, stop_after):
    """The finished cache is exact, what an --overwrite left is not; each would do alone."""
    path = tmp_path / "c.h5"
    exact = dataclasses.replace(FIXED, exact_decode=True)
    tle.extract(photos, path, **(OPTIONS | {"execution": exact}))
    before = path.read_bytes()
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, overwrite=True, **OPTIONS)
    make_images(photos, ["ape"], 2, 48)
    with pytest.raises(FingerprintError, match="features of two kinds .*decoder"):
        tle.extract(photos, path, **OPTIONS)
    assert path.read_bytes() == before
    assert tle.extract(photos, path, overwrite=True, **OPTIONS).n_extracted == 18


def test_another_folder_of_the_same_names_sizes_and_times(tmp_path):
    for folder, colour in (("v1", "red"), ("v2", "blue")):
        for name in ("a.bmp", "b.bmp"):
            (tmp_path / folder / "cat").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), colour).save(tmp_path / folder / "cat" / name)
            os.utime(tmp_path / folder / "cat" / name, (10**9, 10**9))
    path = tmp_path / "c.h5"
    tle.extract(tmp_path / "v1", path, **OPTIONS)
    assert tle.extract(tmp_path / "v1", path, **OPTIONS).already_done
    assert tle.extract(tmp_path / "v2", path, **OPTIONS).n_extracted == 2


def test_a_picture_that_is_another_while_it_is_read_is_compared_next_time(tmp_path, photos):
    path, real, other = tmp_path / "c.h5", photos / "cat" / "005.jpg", tmp_path / "other.jpg"
    shutil.copyfile(photos / "dog" / "001.jpg", other)
    read = tle.Source.read

    def swapped(self, index):
        if self.ids[index] != "cat/005.jpg" or self.states is None:
            return read(self, index)
        real.rename(tmp_path / "aside.jpg")
        shutil.copyfile(other, real)
        data = read(self, index)
        (tmp_path / "aside.jpg").replace(real)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tle.Source, "read", swapped)
        tle.extract(photos, path, **OPTIONS)
    assert tle.open_cache(path).files[5].item() == (0, 0)
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.already_done, result.n_extracted) == (False, 1)
    assert tle.verify(path, images=photos).sound


def test_overwrite_uses_no_rows_of_the_cache_that_it_replaces(tmp_path, photos, make_images, stop_after):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    make_images(photos, ["ape"], 8, 48)
    stop_after(28)
    with pytest.raises(KeyboardInterrupt):  # its unfinished file holds rows of the finished one
        tle.extract(photos, path, **OPTIONS)
    stop_after(8)
    with pytest.raises(KeyboardInterrupt, match="8 of 32"):
        tle.extract(photos, path, overwrite=True, **OPTIONS)
    assert tle.extract(photos, path, overwrite=True, **OPTIONS).n_extracted == 24  # goes on with its own


def test_pictures_that_cannot_be_read_for_a_while_lose_nothing(tmp_path, photos):
    """A folder of links, and the disk behind them away for one run."""
    links, path = tmp_path / "links" / "cat", tmp_path / "c.h5"
    links.mkdir(parents=True)
    for picture in (photos / "cat").iterdir():
        (links / picture.name).symlink_to(picture)
    tle.extract(links.parent, path, **OPTIONS)
    before = path.read_bytes()
    (photos / "cat").rename(photos / "away")
    result = tle.extract(links.parent, path, **OPTIONS)
    assert result.already_done
    assert any("12 pictures of" in note and "cannot be read now" in note for note in result.notes)
    assert path.read_bytes() == before
    (photos / "away").rename(photos / "cat")
    assert tle.extract(links.parent, path, verify_inputs=True, **OPTIONS).already_done


def test_a_folder_that_has_nothing_in_common_is_refused(tmp_path, photos, make_images):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    before = path.read_bytes()
    make_images(tmp_path / "other", ["ape"], 2, 48)
    with pytest.raises(OutputError, match=r"is of other pictures.*--overwrite"):
        tle.extract(tmp_path / "other", path, **OPTIONS)
    assert path.read_bytes() == before
    assert tle.extract(tmp_path / "other", path, overwrite=True, **OPTIONS).n_images == 2


def test_another_limit_of_pixels_is_written_down_truly(tmp_path, photos, stop_after):
    Image.new("RGB", (200, 200)).save(photos / "cat" / "000.jpg")
    path = tmp_path / "c.h5"
    low = dataclasses.replace(FIXED, max_pixels=5000)
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        tle.extract(photos, path, **(OPTIONS | {"execution": low}))
    with pytest.raises(OutputError, match="--max-pixels 5000, now it is 1000000"):
        tle.extract(photos, path, **(OPTIONS | {"execution": dataclasses.replace(FIXED, max_pixels=1_000_000)}))
    assert tle.extract(photos, path, **(OPTIONS | {"execution": low})).n_failed == 1
    assert tle.open_cache(path).run["max_pixels"] == 5000


def test_rows_marked_by_a_repair_meanwhile_are_extracted(tmp_path, photos, make_images, monkeypatch):
    """Between looking at a finished cache and having the right to write, another process repairs it."""
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    make_images(photos, ["ape"], 1, 48)
    slot, claimed = tle.open_cache(path).slots["status"], stock.Claim

    def repaired(output):
        with path.open("r+b") as file:
            file.seek(slot.offset + 2)
            file.write(b"\0")
        return claimed(output)

    monkeypatch.setattr(stock, "Claim", repaired)
    result = tle.extract(photos, path, **OPTIONS)
    assert (result.n_extracted, result.n_failed) == (2, 0)
