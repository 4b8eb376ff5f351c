import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import polars
import pytest
import torch

from tle.cache import open_cache
from tle.cache.layout import lay_out
from tle.enums import Target
from tle.errors import CacheError, OutputError
from tle.files import check_output, part_path, write_at


def test_plain_h5py_and_h5dump_read_every_object(tmp_path, write_cache, make_features, make_content):
    path = write_cache(tmp_path / "c.h5", failed=(1,))
    with h5py.File(path) as h5:
        names = {
            "features",
            "status",
            "labels",
            "classes",
            "ids",
            "splits",
            "digests",
            "files",
            "checksums",
            "failures",
        }
        assert set(h5) == names
        np.testing.assert_array_equal(h5["features"][[0, 2, 3]], make_features()[[0, 2, 3]])
        assert [name.decode() for name in h5["ids"][:]] == list(make_content().ids)
        assert h5["ids"].asstr()[0] == "a/ä.jpg"
        assert h5py.check_enum_dtype(h5["status"].dtype) == {"PENDING": 0, "DONE": 1, "FAILED": 2}
        assert h5py.check_enum_dtype(h5["splits"].dtype) == {"NONE": 0, "TRAIN": 1, "VAL": 2, "TEST": 3}
        assert h5["features"].chunks is None
        assert h5["failures"][0]["reason"].decode() == "truncated: ümlaut 1"
        assert json.loads(h5.attrs["spec"]) == make_content().spec
    if shutil.which("h5dump"):
        done = subprocess.run(["h5dump", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("target", "labels", "classes", "labelled"),
    [
        (Target.MULTILABEL, np.array([[1, 0], [1, 1], [255, 255], [0, 0]], np.uint8), ("a", "b"), [1, 1, 0, 1]),
        (Target.REGRESSION, np.array([0.5, np.nan, 2, -1], np.float32), (), [1, 0, 1, 1]),
        (Target.NONE, np.full(4, -1), (), [0, 0, 0, 0]),
    ],
)
def test_labels_of_every_kind(tmp_path, write_cache, target, labels, classes, labelled):
    cache = open_cache(write_cache(tmp_path / "c.h5", target=target, labels=labels, classes=classes))
    np.testing.assert_array_equal(cache.labels, labels)
    assert (cache.target, cache.classes) == (target, classes)
    assert cache.labelled.astype(int).tolist() == labelled
    assert cache.summary()["labelled"] == sum(labelled)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_features_are_mapped_and_read_only(tmp_path, write_cache, dtype):
    cache = open_cache(write_cache(tmp_path / "c.h5", dtype=dtype))
    assert not cache.features.flags.owndata
    assert cache.features.dtype == dtype
    with pytest.raises(ValueError, match="read-only"):
        cache.features[0, 0] = 1


def test_blocks_cover_the_valid_rows_in_order(tmp_path, write_cache, make_features):
    cache = open_cache(write_cache(tmp_path / "c.h5", 50, failed=(0, 20, 21)))
    rows, features = zip(*cache.blocks(7), strict=True)
    assert all(len(block) <= 7 for block in rows)
    assert np.concatenate(rows).tolist() == cache.rows().tolist()
    np.testing.assert_array_equal(np.concatenate(features), make_features(50)[cache.rows()])
    assert not features[0].flags.owndata  # consecutive: a view
    assert len(list(cache.blocks())) == 1


def test_rows_of_a_split(tmp_path, write_cache):
    cache = open_cache(write_cache(tmp_path / "c.h5", failed=(1,)))
    assert cache.rows("train").tolist() == [0]
    assert cache.rows("val").tolist() == []
    with pytest.raises(CacheError, match="none, train, val, test, got 'dev'"):
        cache.rows("dev")


def test_access_as_users_expect_it(tmp_path, write_cache, make_features):
    cache = open_cache(write_cache(tmp_path / "c.h5", failed=(1,)))
    features, labels = cache.to_numpy()
    np.testing.assert_array_equal(features, make_features()[[0, 2, 3]])
    assert labels.tolist() == [0, 1, -1]
    frame = cache.to_polars()
    assert frame["id"].to_list() == ["a/ä.jpg", "b/c d.jpg", "z.png"]
    assert frame["label"].to_list() == ["a", "ü", None]
    assert frame["split"].to_list() == ["train", "test", "none"]
    np.testing.assert_array_equal(frame["features"].to_numpy(), features)
    assert isinstance(frame, polars.DataFrame)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_it(tmp_path, write_cache, make_features, workers):
    data = open_cache(write_cache(tmp_path / "c.h5", 20, failed=(3,))).dataset()
    assert len(data) == 19
    context = "forkserver" if workers else None
    loader = torch.utils.data.DataLoader(data, batch_size=6, num_workers=workers, multiprocessing_context=context)
    features, labels = zip(*loader, strict=True)
    rows = [row for row in range(20) if row != 3]
    np.testing.assert_array_equal(torch.cat(features).numpy(), make_features(20)[rows])
    assert torch.cat(labels).tolist() == [row % 2 for row in rows]
    one, label = data[3]
    np.testing.assert_array_equal(one.numpy(), make_features(20)[4])
    assert label.item() == 0


def test_another_process_gets_the_path_and_not_the_arrays(tmp_path, write_cache, make_features):
    cache = open_cache(write_cache(tmp_path / "c.h5", 1000))
    assert len(pickle.dumps(cache)) < 500
    sent = pickle.dumps(cache)
    np.testing.assert_array_equal(pickle.loads(sent).features, make_features(1000))
    write_cache(tmp_path / "d.h5", 1000).replace(tmp_path / "c.h5")
    with pytest.raises(CacheError, match="replaced since it was opened"):
        pickle.loads(sent)


def _sum_of(path, seed):
    cache = open_cache(path)
    order = np.random.default_rng(seed).permutation(len(cache))
    total = sum(float(cache.features[order[start : start + 50]].sum(dtype=np.float64)) for start in range(0, 2000, 50))
    return round(total, 3)


def test_eight_readers_at_once_are_right(tmp_path, write_cache, make_features):
    path = write_cache(tmp_path / "c.h5", 2000)
    expected = round(float(make_features(2000).sum(dtype=np.float64)), 3)
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = pool.starmap(_sum_of, [(path, seed) for seed in range(64)])
    assert found == [expected] * 64


def test_readers_keep_what_they_opened_when_the_file_is_replaced(tmp_path, write_cache, make_features):
    path = write_cache(tmp_path / "c.h5")
    cache = open_cache(path)
    write_cache(tmp_path / "d.h5", dim=7).replace(path)
    np.testing.assert_array_equal(cache.features, make_features())
    assert open_cache(path).dim == 7


def test_a_published_cache_is_readable_at_once_with_hdf5s_own_lock(tmp_path, write_cache):
    with h5py.File(write_cache(tmp_path / "c.h5"), locking=True) as h5:
        assert len(h5["ids"]) == 4


def test_a_million_rows_open_without_being_read(tmp_path, make_content):
    """Sparse: what is opened has 5 GB, what is read of it is its header."""
    n = 1_000_000
    content = make_content(n, dim=1280, ids=[str(row) for row in range(n)], labels=np.full(n, -1))
    overlay, slots = lay_out(content, content.arrays())
    with (tmp_path / "c.h5").open("wb") as file:
        file.truncate(overlay.size)
        overlay.apply(file.fileno(), lambda: None)
        write_at(file.fileno(), content.arrays()["classes"].tobytes(), slots["classes"].offset)
    code = "import tle, sys; c = tle.open_cache(sys.argv[1]); assert len(c) == 10**6\n"
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "c.h5"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000  # KiB


def test_files_that_are_not_there(tmp_path):
    part_path(tmp_path / "running.h5").write_bytes(b"")
    for name, message in (("nowhere.h5", "no such cache"), ("running.h5", "did not finish")):
        with pytest.raises(CacheError, match=message) as caught:
            open_cache(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_output_is_never_an_input(tmp_path, write_cache):
    path = write_cache(tmp_path / "c.h5")
    (tmp_path / "link.h5").symlink_to(path)
    for output in (path, tmp_path / "link.h5"):
        with pytest.raises(OutputError, match="read by this very command"):
            check_output(output, overwrite=True, inputs=[path])
    with pytest.raises(OutputError, match="no regular file"):
        check_output(Path("/dev/null"), overwrite=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "c.h5", overwrite=False)
    with pytest.raises(OutputError, match="it is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="--overwrite"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
