"""Exports end to end: what is written scores like the classifier, and what cannot be is refused with nothing written."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tle
from tle.bundle import read_bundle
from tle.errors import AllImagesFailedError, HeadError, OutputError, RuntimeChoiceError, UsageError
from tle.exporting.onnx_head import append_head
from tle.images import FAST_DECODER, load

CLASSES = ["cat", "dog", "owl"]
SMALL = tle.PreprocessOverrides(resize=40, crop=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_images):
    return make_images(tmp_path_factory.mktemp("export") / "photos", CLASSES, 5, 48, splits=["train", "val"])


@pytest.fixture(scope="module")
def frozen(photos):
    """The head of a frozen backbone, with its cache beside it."""
    cache = photos.parent / "c.h5"
    tle.extract(photos, cache, backbone="torchvision/squeezenet1_1", weights="none", overrides=SMALL)
    return tle.fit_head(cache, photos.parent / "c.head").path


@pytest.fixture(scope="module")
def finetuned(photos, make_finetuned):
    data = {"images": str(photos), "kind": "folder", "counts": {"train": 15, "val": 15}}
    return make_finetuned(photos.parent / "f.tle", CLASSES, data=data)


def scores_of(path, source):
    """Scores of a classifier by plain torch, and the pixels that they are of."""
    classifier = tle.load_classifier(path, execution=tle.Execution(runtime="torch", precision="float32"))
    scores = np.concatenate([batch.scores for batch in classifier.predict(source)])
    preprocess = classifier.backbone.preprocess
    pixels = np.stack([load(source.read(row), preprocess, decoder=FAST_DECODER) for row in range(len(source))])
    return scores, pixels


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(finetuned):
    return tle.export(finetuned, finetuned.with_name("f.onnx"))


def test_an_onnx_file_scores_like_the_classifier(exported, finetuned, photos):
    assert (exported.format, exported.n_checked, exported.top1_agreement) == ("onnx", 30, 1.0)
    assert exported.max_abs_difference < 1e-5
    assert exported.n_bytes == exported.path.stat().st_size
    source = tle.open_source(photos)
    scores, pixels = scores_of(finetuned, source)
    session = session_of(exported.path)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("pixels", ["batch", 32, 32, 3], "tensor(uint8)")
    ]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [
        ("probabilities", ["batch", 3], "tensor(float)")
    ]
    for n in (1, 30):
        found = session.run(None, {"pixels": pixels[:n]})[0]
        np.testing.assert_allclose(found, scores[:n], atol=1e-5)


def test_its_metadata_says_all_that_it_takes_to_use_it(exported, finetuned):
    texts = session_of(exported.path).get_modelmeta().custom_metadata_map
    metadata = {name: json.loads(text) for name, text in texts.items()}
    assert metadata["classes"] == CLASSES
    assert metadata["preprocessing"] == {"resize": 40, "crop": [32, 32], "interpolation": "bilinear"}
    assert metadata["target"] == "class"
    assert metadata["backbone"] == read_bundle(finetuned).head.spec["backbone"]
    assert metadata["check"]["n"] == 30
    assert "tle_version" in metadata
    assert "int8" not in metadata


def test_a_torch_program_scores_like_the_classifier(finetuned, photos, tmp_path):
    import torch

    result = tle.export(finetuned, tmp_path / "f.pt2", images=photos)
    assert (result.format, result.n_checked) == ("torch-export", 30)
    scores, pixels = scores_of(finetuned, tle.open_source(photos))
    extra = {"tle.json": ""}
    module = torch.export.load(result.path, extra_files=extra).module()
    np.testing.assert_allclose(module(torch.from_numpy(pixels)).detach(), scores, atol=1e-5)
    assert json.loads(json.loads(extra["tle.json"])["classes"]) == CLASSES


def test_a_head_becomes_a_classifier_that_knows_its_pictures_and_exports_like_it(frozen, photos, tmp_path):
    result = tle.export(frozen, tmp_path / "c.tle", images=photos)
    assert (result.format, result.n_checked, result.max_abs_difference) == ("tle", 0, None)
    bundle = read_bundle(result.path)
    assert bundle.data["counts"] == {"train": 15, "val": 15}
    assert bundle.metrics["val"]["n"] == 15
    assert bundle.state is None
    written = tle.export(result.path, tmp_path / "c.onnx")  # on the pictures that it knows
    scores, pixels = scores_of(frozen, tle.open_source(photos))
    np.testing.assert_allclose(session_of(written.path).run(None, {"pixels": pixels})[0], scores, atol=1e-5)


def test_a_tle_again_is_the_same_file(finetuned, tmp_path):
    assert tle.export(finetuned, tmp_path / "g.tle").path.read_bytes() == finetuned.read_bytes()


def test_pictures_that_a_classifier_was_made_from_are_not_replaced_by_others(finetuned, photos, tmp_path):
    with pytest.raises(
        UsageError, match=r"knows the pictures that it was made from \(.*photos\), .*: leave --images out"
    ):
        tle.export(finetuned, tmp_path / "g.tle", images=photos / "val")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_moved_are_looked_at_and_written_down(photos, tmp_path):
    import torch
    import torchvision

    weights = tmp_path / "squeeze.pth"
    torch.manual_seed(3)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), weights)
    tle.extract(photos, tmp_path / "c.h5", backbone="torchvision/squeezenet1_1", weights=str(weights), overrides=SMALL)
    head = tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head").path
    moved = weights.rename(tmp_path / "moved.pth")
    result = tle.export(head, tmp_path / "c.tle")
    assert any("not where they were" in note and "--weights" in note for note in result.notes)
    result = tle.export(head, tmp_path / "c.tle", weights=str(moved), overwrite=True)
    assert result.notes == ()
    assert read_bundle(result.path).head.spec["backbone"]["weights"] == str(moved)
    assert tle.evaluate(result.path, photos, split="val").n == 15


def test_int8_says_what_it_costs(finetuned, photos, tmp_path):
    result = tle.export(finetuned, tmp_path / "f8.onnx", int8=True)
    cost = result.int8
    told = [cost[name] for name in ("metric", "split", "n", "n_calibration", "seen_in_fit")]
    assert told == ["accuracy", "val", 15, 15, 0]
    assert cost["difference"] == pytest.approx(cost["int8"] - cost["float32"])
    low, high = cost["interval"]
    assert low <= cost["difference"] <= high
    assert result.max_abs_difference < 1e-5  # of float32, as without int8
    assert result.n_bytes < 0.4 * finetuned.stat().st_size
    assert json.loads(session_of(result.path).get_modelmeta().custom_metadata_map["int8"]) == cost
    source = tle.open_source(photos)
    rows = np.flatnonzero(source.splits == 2)
    scores, pixels = scores_of(finetuned, source.subset(rows))
    found = session_of(result.path).run(None, {"pixels": pixels})[0]
    assert cost["float32"] == pytest.approx((scores.argmax(1) == source.labels[rows]).mean())
    assert cost["int8"] == pytest.approx((found.argmax(1) == source.labels[rows]).mean())
    assert cost["max_abs_difference"] == pytest.approx(np.abs(found - scores).max(), abs=1e-4)
    quantised = onnx.load(result.path)
    assert any(node.op_type == "QuantizeLinear" for node in quantised.graph.node)
    weight = next(tensor for tensor in quantised.graph.initializer if tensor.name == "tle_head_weight")
    assert weight.data_type == onnx.TensorProto.FLOAT  # the head stays what it was


def test_a_graph_with_other_scores_is_refused_and_nothing_is_written(finetuned, tmp_path, monkeypatch):
    def wrong(model, head):
        moved = head.model.bias_K + np.array([0, 0.1, 0], np.float32)
        return append_head(model, replace(head, model=replace(head.model, bias_K=moved)))

    monkeypatch.setattr("tle.exporting.onnx_classifier.append_head", wrong)
    with pytest.raises(HeadError, match="other scores than the classifier .* nothing was written"):
        tle.export(finetuned, tmp_path / "f.onnx")
    assert list(tmp_path.iterdir()) == []


def test_pictures_have_to_be_there(frozen, finetuned, make_finetuned, tmp_path):
    with pytest.raises(UsageError, match=r"does not say which it was made from: name some with --images"):
        tle.export(frozen, tmp_path / "c.onnx")
    path = make_finetuned(tmp_path / "gone.tle", CLASSES, data={"images": str(tmp_path / "gone")})
    with pytest.raises(UsageError, match=r"no longer at .*gone: name some with --images"):
        tle.export(path, tmp_path / "c.onnx")
    data = {"images": str(tmp_path), "kind": "manifest"}
    path = make_finetuned(tmp_path / "listed.tle", CLASSES, data=data)
    with pytest.raises(UsageError, match="were listed by a manifest: name some with --images"):
        tle.export(path, tmp_path / "c.onnx")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError, match="all 1 pictures"):
        tle.export(finetuned, tmp_path / "c.onnx", images=tmp_path / "bad")
    assert not (tmp_path / "c.onnx").exists()


def test_bad_pictures_are_left_out_of_the_comparison(finetuned, photos, tmp_path):
    shutil.copytree(photos / "val" / "cat", tmp_path / "some")
    (tmp_path / "some" / "000.jpg").write_bytes(b"no picture")
    assert tle.export(finetuned, tmp_path / "f.pt2", images=tmp_path / "some").n_checked == 4


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("f.bin", {}, r"--output takes a name that ends in \.tle, \.onnx, \.pt2"),
        ("f.onnx", {"to": "coreml"}, "--to takes tle, onnx, torch-export"),
        ("f.pt2", {"int8": True}, r"--int8 goes with an \.onnx"),
        (
            "f.tle",
            {"to": "onnx"},
            r"--to onnx and the name f\.tle, which says tle, differ: leave --to out, or name another",
        ),
        ("f.ONNX", {"to": "torch-export"}, r"--to torch-export and the name f\.ONNX, which says onnx, differ"),
        ("f.onnx", {"split": "val"}, "goes with it alone"),
        ("f.onnx", {"int8": True, "split": "testing"}, "split should be one of"),
    ],
)
def test_options_that_do_not_go_together(finetuned, tmp_path, output, options, message):
    with pytest.raises(UsageError, match=message):
        tle.export(finetuned, tmp_path / output, **options)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_any_work(finetuned, tmp_path):
    (tmp_path / "f.onnx").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        tle.export(finetuned, tmp_path / "f.onnx")
    assert (tmp_path / "f.onnx").read_text() == "mine"
    with pytest.raises(OutputError, match="read by this very command"):
        tle.export(finetuned, finetuned, overwrite=True)


def test_only_linear_heads_become_graphs(frozen, photos, tmp_path):
    head = tle.fit_head(frozen.with_name("c.h5"), tmp_path / "k.head", head="knn").path
    with pytest.raises(HeadError, match="a knn head cannot be exported to a graph"):
        tle.export(head, tmp_path / "k.onnx", images=photos)
    tle.export(head, tmp_path / "k.tle")
    assert tle.load_classifier(tmp_path / "k.tle").head.kind == "knn"


def write_net(path, batch):
    """Someone else's network, whose output has the name that ours gets."""
    rng = np.random.default_rng(0)
    constants = {
        "weights": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "classifier": rng.normal(size=(5, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["pixels"]),
        helper.make_node("Relu", ["pixels"], ["rectified"]),
        helper.make_node("ReduceMean", ["rectified"], ["features"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["features", "classifier"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("batch", ["b", 2])
def test_the_backbone_may_be_an_onnx_file(photos, tmp_path, batch):
    net = write_net(tmp_path / "net.onnx", batch)
    tle.extract(photos, tmp_path / "o.h5", backbone=f"onnx:{net}")
    head = tle.fit_head(tmp_path / "o.h5", tmp_path / "o.head").path
    result = tle.export(head, tmp_path / "o2.onnx", images=photos)
    assert result.n_checked == 30
    assert any("2 pictures at a time" in note for note in result.notes) == (batch == 2)
    classifier = tle.load_classifier(head, execution=tle.Execution(precision="float32"))
    source = tle.open_source(photos)
    scores = np.concatenate([batch.scores for batch in classifier.predict(source)])
    preprocess = classifier.backbone.preprocess
    pixels = np.stack([load(source.read(row), preprocess, decoder=FAST_DECODER) for row in range(len(source))])
    session = session_of(result.path)
    found = np.concatenate([session.run(None, {"pixels": pixels[at : at + 2]})[0] for at in range(0, 30, 2)])
    np.testing.assert_allclose(found, scores, atol=1e-4)
    assert tle.export(head, tmp_path / "o8.onnx", images=photos, int8=True).int8["n"] == 15
    with pytest.raises(RuntimeChoiceError, match=r"is an ONNX file, which torch cannot export: export to \.onnx"):
        tle.export(head, tmp_path / "o.pt2", images=photos)
