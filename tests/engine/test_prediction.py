import csv
import os

import numpy as np
import pytest

import tle
from tle.errors import AllImagesFailedError, FingerprintError, ImageError, OutputError, UsageError

SMALL = tle.PreprocessOverrides(resize=40, crop=32)


@pytest.fixture
def trained(tmp_path, make_images):
    make_images(tmp_path / "photos", ["cat", "dog", "owl"], 8, 48)
    tle.extract(
        tmp_path / "photos", tmp_path / "c.h5", backbone="torchvision/resnet18", weights="none", overrides=SMALL
    )
    tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head")
    return tmp_path


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_head_on_the_cached_features(trained):
    result = tle.predict(trained / "c.head", trained / "photos", trained / "p.csv", top_k=3)
    cache, head = tle.open_cache(trained / "c.h5"), tle.load_head(trained / "c.head")
    scores = head.predict(np.asarray(cache.features))
    rows = table(result.path)
    assert [row["id"] for row in rows] == list(cache.ids)
    assert [row["class"] for row in rows] == [head.classes[best] for best in scores.argmax(1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], scores.max(1), rtol=1e-3)
    for row in rows:
        ranked = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1, abs=1e-4)
        assert {row["class"], row["class_2"], row["class_3"]} == {"cat", "dog", "owl"}
        assert row["error"] == ""


def test_parquet_holds_the_same_rows_as_csv(trained):
    import pyarrow.parquet as pq

    (trained / "photos" / "cat" / "bad.jpg").write_bytes(b"no picture")
    tle.predict(trained / "c.head", trained / "photos", trained / "p.csv")
    tle.predict(trained / "c.head", trained / "photos", trained / "p.parquet", execution=tle.Execution(batch_size=5))
    rows, expected = pq.read_table(trained / "p.parquet").to_pylist(), table(trained / "p.csv")
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert (row["class"] or "") == other["class"]
        assert (row["error"] or "") == other["error"]
        if row["probability"] is not None:
            assert row["probability"] == pytest.approx(float(other["probability"]), abs=1e-4)


def test_a_bad_picture_has_its_reason_in_its_row(trained):
    (trained / "photos" / "cat" / "000bad.jpg").write_bytes(b"no picture")
    result = tle.predict(trained / "c.head", trained / "photos", trained / "p.csv")
    rows = table(result.path)
    assert (result.n_images, result.n_failed) == (25, 1)
    bad = [row for row in rows if row["error"]]
    assert [row["id"] for row in bad] == ["cat/000bad.jpg"]
    assert bad[0]["class"] == bad[0]["probability"] == ""
    with pytest.raises(ImageError, match=r"000bad\.jpg.*--strict"):
        tle.predict(trained / "c.head", trained / "photos", trained / "q.csv", strict=True)
    assert not (trained / "q.csv").exists()


def test_when_all_fail_the_table_says_why(trained):
    (trained / "new").mkdir()
    (trained / "new" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError):
        tle.predict(trained / "c.head", trained / "new", trained / "p.csv")
    assert table(trained / "p.csv")[0]["error"]


def test_outputs_are_checked_before_any_work(trained):
    for output, kind, message in (
        ("p.txt", UsageError, r"\.csv or \.parquet"),
        ("no/p.csv", OutputError, "does not exist"),
        ("c.h5", UsageError, r"\.csv"),
    ):
        with pytest.raises(kind, match=message):
            tle.predict(trained / "c.head", trained / "photos", trained / output)
    (trained / "p.csv").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        tle.predict(trained / "c.head", trained / "photos", trained / "p.csv")
    assert (trained / "p.csv").read_text() == "mine"


def test_other_weights_under_the_same_name_are_refused(trained):
    import torch
    import torchvision

    torch.manual_seed(5)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), trained / "other.pth")
    with pytest.raises(FingerprintError, match="weights with digest"):
        tle.predict(trained / "c.head", trained / "photos", trained / "p.csv", weights=str(trained / "other.pth"))


def test_a_classifier_streams_and_covers_every_row_once(trained):
    classifier = tle.load_classifier(trained / "c.head", execution=tle.Execution(batch_size=7))
    batches = list(classifier.predict(trained / "photos"))
    assert len(batches) == 4
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(24))
    assert all(batch.scores.shape == (len(batch.indices), 3) for batch in batches)
    assert classifier.head.classes == ("cat", "dog", "owl")
    assert classifier.backbone.name == "torchvision/resnet18"


def test_multilabel_rows_name_all_labels(tmp_path, make_images):
    make_images(tmp_path, ["cat", "dog"], 10, 48)
    lines = ["path,label"]
    for name in sorted(os.listdir(tmp_path / "cat")):
        lines.append(f"cat/{name},soft;small")
    for name in sorted(os.listdir(tmp_path / "dog")):
        lines.append(f"dog/{name},soft")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    tle.extract(tmp_path / "m.csv", tmp_path / "c.h5", backbone="torchvision/resnet18", weights="none", overrides=SMALL)
    tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head")
    tle.predict(tmp_path / "c.head", tmp_path / "m.csv", tmp_path / "p.csv")
    rows = table(tmp_path / "p.csv")
    assert {row["labels"] for row in rows} <= {"small;soft", "soft", "small", ""}
    assert sum(row["labels"] == "small;soft" for row in rows if row["id"].startswith("cat")) >= 8
    assert sum(row["labels"] == "soft" for row in rows if row["id"].startswith("dog")) >= 8


def test_regression_rows_hold_a_value(tmp_path, make_images):
    make_images(tmp_path, ["cat", "dog"], 10, 48)
    lines = ["path,label"]
    for folder, value in (("cat", 1.5), ("dog", -2)):
        lines += [f"{folder}/{name},{value}" for name in sorted(os.listdir(tmp_path / folder))]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    tle.extract(
        tmp_path / "m.csv",
        tmp_path / "c.h5",
        backbone="torchvision/resnet18",
        weights="none",
        overrides=SMALL,
        target="regression",
    )
    tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head")
    tle.predict(tmp_path / "c.head", tmp_path / "m.csv", tmp_path / "p.csv")
    rows = table(tmp_path / "p.csv")
    assert list(rows[0]) == ["id", "value", "error"]
    cats = [float(row["value"]) for row in rows if row["id"].startswith("cat")]
    dogs = [float(row["value"]) for row in rows if row["id"].startswith("dog")]
    assert min(cats) > max(dogs)


def test_strict_says_where_the_rows_before_are(trained):
    (trained / "photos" / "owl" / "zzz.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"p\.csv\.part"):
        tle.predict(
            trained / "c.head",
            trained / "photos",
            trained / "p.csv",
            strict=True,
            execution=tle.Execution(batch_size=5),
        )
    assert len(table(trained / "p.csv.part")) == 20


def test_neither_head_nor_manifest_is_overwritten(trained):
    manifest = trained / "photos" / "m.csv"
    manifest.write_text("path\ncat/000.jpg\n")
    with pytest.raises(OutputError, match="read by this very command"):
        tle.predict(trained / "c.head", manifest, manifest, overwrite=True)
    with pytest.raises(UsageError, match="--top-k"):
        tle.predict(trained / "c.head", manifest, trained / "p.csv", top_k=0)


def test_a_head_of_imported_features_cannot_see_pictures(tmp_path):
    labels = np.arange(40) % 2
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32) + labels[:, None]
    np.savez(tmp_path / "e.npz", features=features, labels=labels)
    tle.convert(tmp_path / "e.npz", tmp_path / "e.h5", name="clip")
    tle.fit_head(tmp_path / "e.h5", tmp_path / "e.head")
    with pytest.raises(UsageError, match=r"imported features \(imported:clip\)"):
        tle.load_classifier(tmp_path / "e.head")
