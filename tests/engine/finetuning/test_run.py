"""`tle.finetune` as a whole: it starts as the head, it does no harm, it says in one line what it cannot do."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tle
from tle.bundle import read_bundle, read_classifier
from tle.errors import BackboneError, FingerprintError, HeadError, OutputError, TleError, UsageError
from tle.finetuning.run import plan_groups


def predict(path, images="photos"):
    classifier = tle.load_classifier(path, execution=tle.Execution(runtime="torch", precision="float32", device="cpu"))
    parts = list(classifier.predict(images))
    return np.concatenate([part.scores for part in parts])


@pytest.mark.parametrize("scale", ["standard", "l2"])
def test_training_starts_where_the_head_stands(train, fit, capsys, scale):
    head = fit(params={"scale": scale}, refit=False)
    result = train(init=head, epochs=1, progress=True)
    start = result.training["start"]
    assert start["init"] == "photos.head"
    assert start["n"] == 9
    assert start["max_abs_difference"] < 1e-5
    assert start["accuracy_cache"] == start["accuracy_network"] == result.training["history"][0]["val_accuracy"]
    assert f"the head on the cache {start['accuracy_cache']:.4f}" in capsys.readouterr().err
    # And what is written after no training to speak of answers as the head does.
    train("still.tle", init=head, lr=1e-30, epochs=1, keep="last")
    np.testing.assert_allclose(predict("still.tle"), predict(head), atol=1e-5)


def test_a_head_that_has_seen_val_is_fitted_on_train_alone_first(train, fit):
    head = fit(refit=True, params={"C": 0.01})
    alone = fit("alone", refit=False, params={"C": 0.01})
    result = train(init=head, epochs=1, lr=1e-30)
    assert any("fitted on train alone (C = 0.01)" in note for note in result.notes)
    scores = predict(alone)[-9:]  # the ids of val come last
    labels = np.repeat(np.arange(3), 3)
    expected = -np.log(scores[np.arange(9), labels]).mean()
    assert result.training["history"][0]["val_loss"] == pytest.approx(expected, rel=1e-4)
    shutil.move("photos.h5", "elsewhere.h5")
    with pytest.raises(UsageError, match="fitted on the validation pictures as well.*--cache"):
        train("b.tle", init=head)
    assert train("b.tle", init=head, cache="elsewhere.h5", epochs=1).training["start"]["n"] == 9
    # A head that has not seen them needs no cache, and then nothing can be compared with it.
    Path("alone.h5").unlink()
    result = train("c.tle", init=alone, epochs=1)
    assert result.training["start"] == {"init": "alone.head"}


def test_the_cache_of_other_pictures_or_weights_is_refused(train, fit, photos, make_images):
    head = fit(refit=False)
    fit("other", network="with_dropout")
    fit("tail", network="tail")
    with pytest.raises(FingerprintError, match="tail.h5 holds other features than photos.head"):
        train(init=head, cache="tail.h5")
    shutil.copy("tail.h5", "photos.h5")  # beside the head, but not its own
    result = train(init=head, epochs=1)
    assert any("photos.h5 beside photos.head holds other features" in note for note in result.notes)
    make_images(Path("others"), ("x", "y"), 3)
    head = fit("again", refit=False)
    with pytest.raises(HeadError, match="class that the head does not know|classes that the head does not know"):
        train("b.tle", images="others", init=head)
    moved = Path("moved")
    for file in sorted(photos.rglob("*.jpg")):
        target = moved / file.parent.relative_to(photos) / f"new-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    with pytest.raises(HeadError, match="holds none of the pictures of"):
        train("b.tle", images=moved, init=head)


def test_pictures_that_are_not_those_of_the_cache_show_before_any_step(train, fit, photos):
    head = fit(refit=False)
    val = sorted((photos / "val").rglob("*.jpg"))
    contents = [file.read_bytes() for file in val]
    sizes = {len(content) for content in contents}
    for file, content in zip(val, contents[3:] + contents[:3], strict=True):  # each the picture of another class
        file.write_bytes(content.ljust(max(sizes), b"\0"))
    with pytest.raises(HeadError, match="9 pictures changed since|pictures changed since .*photos.h5 was extracted"):
        train(init=head)
    for file, content, before in zip(val, contents[3:] + contents[:3], contents, strict=True):
        file.write_bytes(
            content[: len(before)].ljust(len(before), b"\0")
        )  # of the same size, so that only looking helps
    with pytest.raises(HeadError, match=r"answers otherwise than the head on .*photos.h5, for \d+ of") as caught:
        train(init=head)
    assert "\n" not in str(caught.value)


def test_heads_and_backbones_that_cannot_be_trained(train, fit):
    with pytest.raises(HeadError, match="is a knn head, and fine-tuning starts from a linear one"):
        train(init=fit(head="knn"))
    with pytest.raises(TleError, match="no such|does not exist|cannot be read|No such file"):
        train(init="missing.head")


def test_an_onnx_file_is_no_network_to_train(photos):
    weight = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 24, 24])
    features = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "net", [pixels], [features], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")
    with pytest.raises(BackboneError, match="is an ONNX file, and only networks of torch can be fine-tuned"):
        tle.finetune(photos, "a.tle", init="none", backbone="onnx:net.onnx", options=tle.FinetuneOptions(device="cpu"))


def test_classes_that_only_the_head_knows_are_kept(train, fit, photos):
    head = fit(refit=False)
    shutil.rmtree(photos / "train" / "green")
    shutil.rmtree(photos / "val" / "green")
    result = train(init=head, epochs=1, keep="last")
    assert result.n_train == 14
    bundle = read_bundle("a.tle")
    assert bundle.head.classes == ("blue", "green", "red")
    assert bundle.data["classes"]["green"] == {"train": 0, "val": 0, "test": 0}


def test_a_training_that_makes_it_worse_leaves_the_head(train, fit):
    head = fit(refit=True)
    harm = {"init": head, "lr": 0.3, "weight_decay": 3.0, "warmup": "0", "epochs": 1, "metric": "nll"}
    result = train(**harm)
    verdict = result.training["verdict"]
    assert (result.kept, verdict["kept"], verdict["won"]) == ("head", "head", False)
    assert verdict["difference"] < 0 < verdict["finetuned"] - verdict["head"]
    np.testing.assert_array_equal(predict("a.tle"), predict(head))
    bundle = read_bundle("a.tle")
    assert bundle.state is None
    assert bundle.training["history"] == result.training["history"]
    assert bundle.metrics["val"]["nll"] == pytest.approx(verdict["head"], rel=1e-5)
    for keep in ("finetuned", "last"):
        result = train(f"{keep}.tle", **harm, keep=keep)
        assert (result.kept, result.training["verdict"]["won"]) == ("finetuned", False)
        kept = read_bundle(f"{keep}.tle")
        assert kept.state is not None
        assert kept.metrics["val"]["nll"] == pytest.approx(verdict["finetuned"], rel=1e-5)


def test_a_training_that_helps_is_kept_and_can_be_trained_on(train, fit):
    head = fit(refit=False, params={"C": 1e-3})
    options = {"lr": 0.1, "epochs": 4, "metric": "nll"}
    result = train(init=head, **options)
    verdict = result.training["verdict"]
    assert (result.kept, verdict["won"]) == ("finetuned", True)
    assert verdict["difference"] == pytest.approx(verdict["head"] - verdict["finetuned"])
    assert verdict["interval"][0] <= verdict["difference"] <= verdict["interval"][1]
    bundle = read_classifier("a.tle")
    assert bundle.base["name"] == "tinynet:make"
    scores = predict("a.tle")[-9:]
    nll = -np.log(scores[np.arange(9), np.repeat(np.arange(3), 3)]).mean()
    assert nll == pytest.approx(verdict["finetuned"], rel=1e-4)
    # From there on: the start is the classifier, and it has not seen val.
    again = train("b.tle", init="a.tle", **options)
    assert again.training["history"][0]["val_loss"] == pytest.approx(nll, rel=1e-4)
    assert again.training["verdict"]["head"] == pytest.approx(nll, rel=1e-4)


def test_without_validation_pictures_the_last_epoch_is_kept(train, photos):
    shutil.rmtree(photos / "val")
    result = train(val_fraction=0.0, epochs=2, patience=1)
    assert (result.n_val, result.kept, result.training["verdict"]) == (0, "finetuned", None)
    assert [set(row) & {"val_loss", "val_accuracy"} for row in result.training["history"]] == [set()] * 3
    assert any("no picture is left to validate on" in note for note in result.notes)
    assert read_bundle("a.tle").metrics == {}


@pytest.mark.parametrize("broken", ["train/blue/003.jpg", "val/red/001.jpg"])
def test_a_bad_picture_is_told_and_left_out(train, photos, capsys, broken):
    (photos / broken).write_bytes((photos / broken).read_bytes()[:500])
    result = train(batch_size=21, epochs=2, progress=True)
    assert set(result.failures) == {broken}
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "could not be read" in line)
    assert f"1 picture could not be read and took no part, the first: {broken}" in line
    assert line.removeprefix("note: ") in result.notes
    # Training goes as if it were not there.
    history = result.training["history"]
    assert history[-1]["step"] == 2
    (photos / broken).unlink()
    if broken.startswith("val"):
        without = train("b.tle", batch_size=21, epochs=2).training["history"]
        for row, other in zip(history, without, strict=True):
            assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-5)
            assert row.get("train_loss") == other.get("train_loss")


def test_several_labels_and_numbers_end_to_end(train, fit, photos):
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.jpg"))
    rows = [f"{file},{'warm;light' if 'red' in str(file) else 'light'},{file.parts[0]}" for file in files]
    (photos / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    result = train(images=photos / "labels.csv", lr=0.5, epochs=2, target="multilabel")
    assert result.training["options"]["metric"] == "mAP"
    assert 0 <= result.training["history"][-1]["val_mAP"] <= 1
    assert read_bundle("a.tle").head.target == "multilabel"
    rows = [f"{file},{len(str(file)) / 10},{file.parts[0]}" for file in files]
    (photos / "numbers.csv").write_text("\n".join(["path,label,split", *rows]))
    result = train("b.tle", images=photos / "numbers.csv", target="regression", lr=0.05, epochs=4)
    history = result.training["history"]
    assert history[-1]["val_mse"] < history[0]["val_mse"]
    assert history[-1]["val_loss"] == pytest.approx(history[-1]["val_mse"] / 2)
    head = fit("numbers", images=photos / "numbers.csv", target="regression")
    result = train("d.tle", images=photos / "numbers.csv", init=head, epochs=1)
    assert result.training["verdict"]["metric"] == "mse"
    assert result.training["start"]["max_abs_difference"] < 1e-4
    with pytest.raises(UsageError, match="--mixup needs one class a picture"):
        train("c.tle", images=photos / "numbers.csv", target="regression", mixup=0.2)


def test_the_output_is_looked_at_before_any_work(train, photos):
    for output, match in (("a.onnx", "called NAME.tle"), ("missing/a.tle", "does not exist")):
        with pytest.raises((UsageError, OutputError), match=match):
            train(output, images="there are none")
    Path("a.tle").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        train(images="there are none")
    assert Path("a.tle").read_bytes() == b"mine"


def test_options_that_do_not_go_together(train, fit, photos):
    head = fit()
    for given, match in (
        ({"init": "none"}, "--init none needs a --backbone"),
        ({"init": "none", "backbone": "tinynet:make", "cache": "photos.h5"}, "--init none has no head"),
        ({"init": head, "backbone": "tinynet:make"}, "--backbone goes with --init none"),
        ({"init": head, "layer": "fc"}, "--layer goes with --init none"),
        ({"init": head, "pool": "avg"}, "--pool goes with --init none"),
        ({"init": head, "target": "class"}, "--target goes with --init none"),
        ({"init": head, "overrides": tle.PreprocessOverrides(crop=24)}, "preprocessing flags go with --init none"),
    ):
        with pytest.raises(UsageError, match=match):
            tle.finetune(photos, "a.tle", **given)
    for options, match in (
        ({"precision": "float16"}, "--precision float16 is for GPUs"),
        ({"metric": "mAP"}, "mAP"),
        ({"freeze": ("stem", "low", "high", "head")}, "frozen"),
        ({"warmup": "100"}, "the training has"),
        ({"schedule": "one-cycle", "warmup": "1e"}, "has a warmup of its own"),
    ):
        with pytest.raises(UsageError, match=match):
            train(**options)


def test_groups_are_shown_without_pictures_where_a_head_says_how_many_classes(fit, photos):
    head = fit()
    groups = plan_groups(None, init=head, options=tle.FinetuneOptions(freeze=("stem",), lr=1e-3, layer_decay=0.5))
    head_group = next(group for group in groups if group.is_head)
    assert (head_group.n_parameters, head_group.lr) == (3 * 16, 1e-3)
    assert all(group.frozen == group.name.startswith("stem") for group in groups)
    with pytest.raises(UsageError, match="a new head needs the pictures"):
        plan_groups(None, init="none", backbone="tinynet:make")
    assert plan_groups(photos, init="none", backbone="tinynet:make")[-1].n_parameters == 3


def test_the_record_has_what_a_report_needs(train, fit):
    head = fit()
    result = train(init=head, epochs=2, keep="last", class_weights=True)
    bundle = read_bundle("a.tle")
    training = bundle.training
    assert training == result.training
    assert set(training) >= {"options", "groups", "history", "start", "verdict", "throughput", "best_epoch"}
    assert training["throughput"]["images_per_s"] > 0 < training["throughput"]["limit_images_per_s"]
    assert bundle.arrays["lr"].shape == (10, len(training["groups"]))
    assert len(bundle.arrays["val_digests"]) == 9
    assert bundle.data["counts"] == {"train": 21, "val": 9, "test": 0}
    assert bundle.data["images"] == str(Path("photos").absolute())
    assert bundle.head.fit["chosen"] == {"epoch": 2}
    assert bundle.metrics["val"]["top1"] == training["history"][-1]["val_accuracy"]
    assert result.to_dict()["path"] == "a.tle"
