"""Measuring a classifier on the pictures themselves: which of them, which classes, leaks, and refusals."""

import numpy as np
import pytest

import tle
from tle.errors import AllImagesFailedError, CacheError, FingerprintError, HeadError, SourceError, UsageError
from tle.metrics import measure

CLASSES = ["cat", "dog", "owl"]
SMALL = tle.PreprocessOverrides(resize=40, crop=32)
PLAIN = tle.Execution(runtime="torch", precision="float32")


@pytest.fixture
def photos(tmp_path, make_images):
    return make_images(tmp_path / "photos", CLASSES, 6, 48, splits=["train", "test"])


@pytest.fixture
def fitted(photos, tmp_path):
    """The head of a frozen backbone, and its cache."""
    cache = tmp_path / "c.h5"
    tle.extract(photos, cache, backbone="torchvision/resnet18", weights="none", overrides=SMALL, execution=PLAIN)
    return tle.fit_head(cache, tmp_path / "c.head").path, cache


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, make_finetuned):
    return make_finetuned(tmp_path_factory.mktemp("eval") / "f.tle", CLASSES)


def test_pictures_give_the_figures_of_their_cache(fitted, photos):
    head, cache = fitted
    ours, theirs = tle.evaluate(head, photos, execution=PLAIN), tle.evaluate(head, cache)
    assert (ours.split, ours.n, ours.seen_in_fit) == (theirs.split, theirs.n, theirs.seen_in_fit) == ("test", 18, 0)
    assert ours.metrics["confusion"] == theirs.metrics["confusion"]
    assert ours.metrics["top1_interval"] == theirs.metrics["top1_interval"]
    assert ours.metrics["nll"] == pytest.approx(theirs.metrics["nll"], rel=1e-4)
    assert (ours.images, ours.cache, theirs.images, theirs.cache) == (photos, None, None, cache)
    assert ours.images_per_s > 0
    assert theirs.images_per_s is None


def test_pictures_of_the_fit_are_counted(fitted, photos):
    result = tle.evaluate(fitted[0], photos, split="all")
    assert (result.n, result.seen_in_fit) == (36, 18)
    assert any("18 of 36 pictures measured were in the fit" in note for note in result.notes)


def test_without_a_test_split_pictures_of_the_fit_are_refused(fitted, photos):
    with pytest.raises(UsageError, match="no test split and shares 18 pictures with the fit"):
        tle.evaluate(fitted[0], photos / "train")
    assert tle.evaluate(fitted[0], photos / "test").split == "all"


def test_a_fine_tuned_classifier_is_measured_on_pictures(finetuned, photos):
    result = tle.evaluate(finetuned, photos, execution=PLAIN)
    source = tle.open_source(photos)
    rows = np.flatnonzero(source.splits == 3)
    classifier = tle.load_classifier(finetuned, execution=PLAIN)
    scores = np.concatenate([batch.scores for batch in classifier.predict(source.subset(rows))])
    want = measure(scores, source.labels[rows], classifier.head.target).values
    assert result.metrics["confusion"] == want["confusion"]
    assert result.metrics["top1_interval"] == want["top1_interval"]


def test_a_cache_of_its_base_is_refused_with_what_to_do(make_finetuned, fitted, tmp_path):
    path = make_finetuned(tmp_path / "f.tle", CLASSES, backbone="torchvision/resnet18")
    with pytest.raises(FingerprintError, match=r"fine-tuned: give the pictures themselves \(tle evaluate"):
        tle.evaluate(path, fitted[1])


def test_classes_are_matched_by_name(finetuned, photos, make_images, tmp_path):
    whole = tle.evaluate(finetuned, photos, execution=PLAIN)
    some = tmp_path / "some"
    for name in ("owl", "dog"):
        (some / name).mkdir(parents=True)
        for picture in (photos / "test" / name).iterdir():
            (some / name / picture.name).write_bytes(picture.read_bytes())
    part = tle.evaluate(finetuned, some, execution=PLAIN)
    assert part.n == 12
    assert part.metrics["confusion"][1:] == whole.metrics["confusion"][1:]
    make_images(some, ["emu"], 2, 48)
    with pytest.raises(HeadError, match=r"1 classes that the head does not know \('emu'\)"):
        tle.evaluate(finetuned, some)


def test_bad_pictures_are_left_out_counted_and_said(finetuned, photos):
    (photos / "test" / "cat" / "000.jpg").write_bytes(b"no picture")
    result = tle.evaluate(finetuned, photos)
    assert (result.n, result.n_left_out) == (17, 1)
    assert any("1 of 18 pictures failed" in note and "cat/000.jpg: not a picture" in note for note in result.notes)
    for picture in (photos / "test").rglob("*.jpg"):
        picture.write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError):
        tle.evaluate(finetuned, photos)


def test_a_manifest_with_its_splits_and_rows_without_a_label(finetuned, photos, tmp_path):
    lines = ["path,label,split"]
    lines += [f"{name}/{number:03}.jpg,{name if number else ''},val" for name in CLASSES for number in range(6)]
    manifest = photos / "test" / "m.csv"
    manifest.write_text("\n".join(lines))
    result = tle.evaluate(finetuned, manifest, split="val")
    assert (result.n, result.n_left_out) == (15, 3)
    assert "3 of 18 pictures have no label and are left out" in result.notes
    (tmp_path / "s.csv").write_text("path,split\ncat/001.jpg,test\ndog/001.jpg,test\n")
    assert tle.evaluate(finetuned, manifest, splits=tmp_path / "s.csv").n == 2


def test_refusals(finetuned, fitted, photos, tmp_path):
    with pytest.raises(HeadError, match=r"no labelled picture in split 'val' \(0 pictures"):
        tle.evaluate(finetuned, photos, split="val")
    with pytest.raises(UsageError, match="one of train, val, test, all"):
        tle.evaluate(finetuned, photos, split="testing")
    with pytest.raises(UsageError, match="go with pictures"):
        tle.evaluate(*fitted, execution=PLAIN)
    with pytest.raises(UsageError, match="go with pictures"):
        tle.evaluate(*fitted, weights="none")
    with pytest.raises(SourceError, match="no such folder or manifest"):
        tle.evaluate(finetuned, tmp_path / "m.csv")
    for name in ("nowhere", "nowhere.h5"):
        with pytest.raises(SourceError, match=f"no such cache, folder or manifest: .*{name}$"):
            tle.evaluate(finetuned, tmp_path / name)
    (tmp_path / "half.h5.part").write_bytes(b"")
    with pytest.raises(CacheError, match="the extraction did not finish"):
        tle.evaluate(finetuned, tmp_path / "half.h5")
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.jpg").write_bytes((photos / "test" / "cat" / "001.jpg").read_bytes())
    with pytest.raises(SourceError, match="needs one folder a class"):
        tle.evaluate(finetuned, flat)


def test_several_labels_and_values_are_measured_on_pictures_as_on_a_cache(photos, tmp_path):
    for target, cell in (("multilabel", "{name};{size}"), ("regression", "{number}")):
        rows = []
        for split in ("train", "test"):
            for number, name in enumerate(CLASSES):
                label = cell.format(name=name, size="small" if number else "large", number=number)
                rows += [f"{split}/{name}/{index:03}.jpg,{label},{split}" for index in range(6)]
        manifest = photos / f"{target}.csv"
        manifest.write_text("\n".join(["path,label,split", *rows]))
        tle.extract(
            manifest,
            tmp_path / f"{target}.h5",
            backbone="torchvision/resnet18",
            weights="none",
            overrides=SMALL,
            execution=PLAIN,
            target=target,
        )
        head = tle.fit_head(tmp_path / f"{target}.h5", tmp_path / f"{target}.head").path
        ours, theirs = tle.evaluate(head, manifest, execution=PLAIN), tle.evaluate(head, tmp_path / f"{target}.h5")
        assert ours.n == theirs.n == 18
        for name, value in theirs.metrics.items():
            if isinstance(value, float):
                assert ours.metrics[name] == pytest.approx(value, rel=1e-3), name
