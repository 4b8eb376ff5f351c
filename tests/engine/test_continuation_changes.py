"""Running `tle.extract` again on a finished cache: only what changed since is extracted."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import tle
from tle import stock
from tle.errors import OutputError
from tle.files import part_path


def test_new_changed_and_removed_pictures(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    before = tle.open_cache(path)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "000.jpg")
    shutil.copyfile(photos / "dog" / "000.jpg", photos / "bird.jpg")
    (photos / "bird.jpg").rename(photos / "dog" / "0005.jpg")
    (photos / "dog" / "011.jpg").unlink()
    result = tle.extract(photos, path, **small_run)
    assert (result.n_images, result.n_extracted) == (24, 2)
    assert any("22 pictures as before, 1 new, 1 changed, 1 gone" in note for note in result.notes)
    cache = tle.open_cache(path)
    assert cache.ids == tle.open_source(photos).ids
    fresh = tle.open_cache(tle.extract(photos, tmp_path / "fresh.h5", **small_run).path)
    np.testing.assert_allclose(cache.features, fresh.features, rtol=1e-4, atol=1e-5)
    assert cache.digests.tolist() == fresh.digests.tolist()
    assert cache.labels.tolist() == fresh.labels.tolist()
    kept = [name for name in cache.ids if name in before.ids and name != "cat/000.jpg"]
    for name in kept:  # taken over, bit for bit
        np.testing.assert_array_equal(cache.features[cache.ids.index(name)], before.features[before.ids.index(name)])
    assert tle.verify(path).sound
    assert tle.extract(photos, path, **small_run).already_done


def test_new_labels_alone_cost_no_extraction(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    before = tle.open_cache(path)
    (photos / "m.csv").write_text(
        "path,label\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(before.ids))
    )
    result = tle.extract(photos / "m.csv", path, **small_run)
    assert (result.n_extracted, result.already_done) == (0, False)
    cache = tle.open_cache(path)
    assert cache.classes == ("0", "1", "2")
    np.testing.assert_array_equal(cache.features, before.features)


def test_a_touched_picture_is_compared_and_kept(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    os.utime(photos / "cat" / "000.jpg", (1, 1))
    assert tle.extract(photos, path, **small_run).already_done


def test_a_change_that_hides_is_found_where_inputs_are_verified(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    changed = photos / "cat" / "000.jpg"
    status, data = changed.stat(), bytearray(changed.read_bytes())
    data[-20] ^= 1
    changed.write_bytes(data)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tle.extract(photos, path, **small_run).already_done
    result = tle.extract(photos, path, verify_inputs=True, **small_run)
    assert (result.already_done, result.n_extracted) == (False, 1)


def test_failed_pictures_are_tried_again_on_request(tmp_path, photos, small_run):
    path, bad = tmp_path / "c.h5", photos / "cat" / "000.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    (photos / "dog" / "001.jpg").write_bytes(b"no picture either")
    assert tle.extract(photos, path, **small_run).n_failed == 2
    assert tle.extract(photos, path, **small_run).already_done
    result = tle.extract(photos, path, retry_failed=True, **small_run)
    assert (result.n_extracted, result.n_failed, result.already_done) == (2, 2, False)
    bad.write_bytes(good)  # a picture that is another now is tried without being asked for
    result = tle.extract(photos, path, **small_run)
    assert (result.n_extracted, result.n_failed) == (1, 1)


def test_damaged_rows_are_not_taken_over(tmp_path, photos, make_images, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    good = tle.open_cache(path).features.copy()
    slot = tle.open_cache(path).slots["features"]
    with path.open("r+b") as file:
        file.seek(slot.offset + 3 * slot.row_bytes)
        file.write(b"\xff\x00\xff")
    make_images(photos, ["eel"], 1, 48)
    result = tle.extract(photos, path, **small_run)
    assert result.n_extracted == 2
    assert any("1 rows of" in note and "damaged" in note for note in result.notes)
    np.testing.assert_allclose(tle.open_cache(path).features[:24], good, rtol=1e-4, atol=1e-5)


def test_repaired_rows_are_extracted_by_the_next_run(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    slot = tle.open_cache(path).slots["features"]
    with path.open("r+b") as file:
        file.seek(slot.offset + 3 * slot.row_bytes)
        file.write(b"\xff\x00\xff")
    assert tle.verify(path, images=photos, repair=True).repaired == (3,)
    assert tle.extract(photos, path, **small_run).n_extracted == 1
    assert tle.verify(path, images=photos).sound


def test_verify_compares_with_the_pictures(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    Image.new("RGB", (48, 48), "red").save(photos / "cat" / "004.jpg")
    (photos / "dog" / "000.jpg").unlink()
    result = tle.verify(path, images=photos)
    assert (result.changed, result.missing, result.damaged) == ((4,), (12,), ())
    assert result.names == {4: "cat/004.jpg", 12: "dog/000.jpg"}


def test_what_is_left_beside_a_complete_cache_is_said(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    part_path(path).write_bytes(b"old")
    assert any("not needed any more" in note for note in tle.extract(photos, path, **small_run).notes)
    assert part_path(path).read_bytes() == b"old"


def test_nothing_to_do_loads_no_torch_and_reads_no_picture(tmp_path, photos, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    code = (
        "import sys, tle\n"
        "tle.Source.read = None\n"
        "result = tle.extract(sys.argv[1], sys.argv[2], backbone='torchvision/resnet18', weights='none',\n"
        "    overrides=tle.PreprocessOverrides(resize=40, crop=32), execution=tle.Execution(precision='float32'))\n"
        "print(result.already_done, 'torch' in sys.modules, any('random weights' in note for note in result.notes))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, photos, path], capture_output=True, text=True, check=True)
    assert done.stdout == "True False True\n"


def test_a_cache_of_another_reference_is_looked_at_closely(tmp_path, photos, small_run):
    """The same network by another name: its file of weights; nothing to do all the same, but found by its digest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    result = tle.extract(photos, path, **(small_run | {"weights": str(tmp_path / "w.pth")}))
    assert result.already_done


def test_another_folder_of_the_same_names_sizes_and_times(tmp_path, small_run):
    for folder, colour in (("v1", "red"), ("v2", "blue")):
        for name in ("a.bmp", "b.bmp"):
            (tmp_path / folder / "cat").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), colour).save(tmp_path / folder / "cat" / name)
            os.utime(tmp_path / folder / "cat" / name, (10**9, 10**9))
    path = tmp_path / "c.h5"
    tle.extract(tmp_path / "v1", path, **small_run)
    assert tle.extract(tmp_path / "v1", path, **small_run).already_done
    assert tle.extract(tmp_path / "v2", path, **small_run).n_extracted == 2


def test_a_picture_that_is_another_while_it_is_read_is_compared_next_time(tmp_path, photos, small_run):
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
        tle.extract(photos, path, **small_run)
    assert tle.open_cache(path).files[5].item() == (0, 0)
    result = tle.extract(photos, path, **small_run)
    assert (result.already_done, result.n_extracted) == (False, 1)
    assert tle.verify(path, images=photos).sound


def test_pictures_that_cannot_be_read_for_a_while_lose_nothing(tmp_path, photos, small_run):
    """A folder of links, and the disk behind them away for one run."""
    links, path = tmp_path / "links" / "cat", tmp_path / "c.h5"
    links.mkdir(parents=True)
    for picture in (photos / "cat").iterdir():
        (links / picture.name).symlink_to(picture)
    tle.extract(links.parent, path, **small_run)
    before = path.read_bytes()
    (photos / "cat").rename(photos / "away")
    result = tle.extract(links.parent, path, **small_run)
    assert result.already_done
    assert any("12 pictures of" in note and "cannot be read now" in note for note in result.notes)
    assert path.read_bytes() == before
    (photos / "away").rename(photos / "cat")
    assert tle.extract(links.parent, path, verify_inputs=True, **small_run).already_done


def test_a_folder_that_has_nothing_in_common_is_refused(tmp_path, photos, make_images, small_run):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    before = path.read_bytes()
    make_images(tmp_path / "other", ["ape"], 2, 48)
    with pytest.raises(OutputError, match=r"is of other pictures.*--overwrite"):
        tle.extract(tmp_path / "other", path, **small_run)
    assert path.read_bytes() == before
    assert tle.extract(tmp_path / "other", path, overwrite=True, **small_run).n_images == 2


def test_rows_marked_by_a_repair_meanwhile_are_extracted(tmp_path, photos, make_images, monkeypatch, small_run):
    """Between looking at a finished cache and having the right to write, another process repairs it."""
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **small_run)
    make_images(photos, ["ape"], 1, 48)
    slot, claimed = tle.open_cache(path).slots["status"], stock.Claim

    def repaired(output):
        with path.open("r+b") as file:
            file.seek(slot.offset + 2)
            file.write(b"\0")
        return claimed(output)

    monkeypatch.setattr(stock, "Claim", repaired)
    result = tle.extract(photos, path, **small_run)
    assert (result.n_extracted, result.n_failed) == (2, 0)
