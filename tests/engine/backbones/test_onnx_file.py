import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tle.backbones.load import PreprocessOverrides, list_layers, load_backbone
from tle.cache import fingerprint
from tle.errors import BackboneError, RuntimeChoiceError, UsageError
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime

SIZE = 16


class Net(torch.nn.Module):
    """Convolution, mean over space, classifier, softmax; in NHWC if asked."""

    def __init__(self, nhwc: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.nhwc = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.Linear(8, 4), nhwc

    def features(self, x):
        x = x.permute(0, 3, 1, 2) if self.nhwc else x
        return torch.relu(self.conv(x)).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x)).softmax(1)


def write(path, *, nhwc=False, batch="batch", opset=17):
    """A graph as other tools write them, built by hand so that no exporter's habits are tested."""
    net = Net(nhwc)
    constants = {
        "w": net.conv.weight.detach().numpy(),
        "b": net.conv.bias.detach().numpy(),
        "fw": net.fc.weight.detach().numpy().T.copy(),
        "fb": net.fc.bias.detach().numpy(),
    }
    nodes = [helper.make_node("Transpose", ["image"], ["chw"], perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        helper.make_node("Conv", ["chw" if nhwc else "image", "w", "b"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fw"], ["scores"]),
        helper.make_node("Add", ["scores", "fb"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    shape = [batch, SIZE, SIZE, 3] if nhwc else [batch, 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return net


def expected_features(net, pixels, preprocess):
    x = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    x = x if net.nhwc else x.transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return net.features(torch.tensor(x, dtype=torch.float32)).numpy()


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("opset", [11, 18])
def test_pixels_in_and_penultimate_features_out(tmp_path, nhwc, batch, opset):
    net = write(tmp_path / "net.onnx", nhwc=nhwc, batch=batch, opset=opset)
    backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}")
    assert (backbone.layer, backbone.dim, backbone.preprocess.crop) == ("flat", 8, (SIZE, SIZE))
    assert any("enters the classifying MatMul" in note for note in backbone.notes)
    assert any("fixes the batch" in note for note in backbone.notes) == (batch == 2)
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    features = open_runtime(backbone)(pixels)
    np.testing.assert_allclose(features, expected_features(net, pixels, backbone.preprocess), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("opset", "pool"), [(11, "avg"), (18, "avg"), (11, "max"), (18, "max")])
def test_a_map_is_pooled_in_the_graph(tmp_path, opset, pool):
    net = write(tmp_path / "net.onnx", opset=opset)
    backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}#map", pool=pool)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    features = open_runtime(backbone)(pixels)
    assert (backbone.pool, backbone.dim) == (pool, 8)
    reference = expected_features(net, pixels, backbone.preprocess)
    if pool == "avg":
        np.testing.assert_allclose(features, reference, rtol=1e-4, atol=1e-5)
    else:
        assert (features >= reference - 1e-6).all()


def test_bgr_and_plain_mean_subtraction_of_older_networks(tmp_path):
    net = write(tmp_path / "net.onnx")
    overrides = PreprocessOverrides(
        channels="bgr", mean=(104 / 255, 117 / 255, 123 / 255), std=(1 / 255, 1 / 255, 1 / 255)
    )
    backbone = load_backbone(f"onnx:{tmp_path / 'net.onnx'}", overrides=overrides)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    x = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    with torch.inference_mode():
        expected = net.features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(open_runtime(backbone)(pixels), expected, rtol=1e-3, atol=1e-2)


def test_layer_and_tensor_name_the_same_place(tmp_path):
    write(tmp_path / "net.onnx")
    by_tensor = load_backbone(f"onnx:{tmp_path / 'net.onnx'}#map")
    by_layer = load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="map")
    assert by_tensor.layer == by_layer.layer == "map"
    assert load_backbone(f"onnx:{tmp_path / 'net.onnx'}", layer="output").layer == "probabilities"
    layers = {layer.name: layer.shape for layer in list_layers(f"onnx:{tmp_path / 'net.onnx'}")}
    assert layers["map"] == (8, 7, 7)


def test_what_cannot_work_is_one_line(tmp_path):
    path = tmp_path / "net.onnx"
    write(path)
    (tmp_path / "junk.onnx").write_bytes(b"not a graph")
    for name, kind, message in (
        (f"onnx:{path}#mapp", BackboneError, "near names: map"),
        (f"onnx:{tmp_path / 'junk.onnx'}", BackboneError, "not a readable ONNX file"),
        (f"onnx:{tmp_path}", BackboneError, "no such ONNX file"),
    ):
        with pytest.raises(kind, match=message) as caught:
            load_backbone(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="16x16"):
        load_backbone(f"onnx:{path}", overrides=PreprocessOverrides(crop=32))
    with pytest.raises(UsageError, match="carries its weights"):
        load_backbone(f"onnx:{path}", weights="IMAGENET1K_V1")
    with pytest.raises(RuntimeChoiceError, match="--runtime onnxruntime"):
        open_runtime(load_backbone(f"onnx:{path}"), Plan(runtime="torch", precision="float32"))


def test_the_digest_is_that_of_the_file(tmp_path):
    write(tmp_path / "a.onnx")
    write(tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    model.doc_string = "changed"
    onnx.save(model, tmp_path / "c.onnx")
    digests = [load_backbone(f"onnx:{tmp_path / name}").weights_digest for name in ("a.onnx", "b.onnx", "c.onnx")]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_that_was_moved_is_the_same_backbone(tmp_path):
    write(tmp_path / "a.onnx")
    before = load_backbone(f"onnx:{tmp_path / 'a.onnx'}")
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(BackboneError, match="no such ONNX file"):
        load_backbone(before.name, weights=before.weights)
    after = load_backbone(before.name, weights=str(tmp_path / "b.onnx"))
    specs = [{"backbone": backbone.spec(), "preprocess": {}} for backbone in (before, after)]
    assert fingerprint(specs[0]) == fingerprint(specs[1])
    assert before.spec() != after.spec()


def test_weights_in_a_side_file_are_part_of_the_identity(tmp_path):
    """Two graphs that are equal to the byte, with other weights beside them."""
    digests = []
    for name, scale in (("one", 1.0), ("two", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        write(folder / "whole.onnx")
        model = onnx.load(folder / "whole.onnx")
        for tensor in model.graph.initializer:
            if tensor.name == "w":
                tensor.CopyFrom(numpy_helper.from_array(scale * numpy_helper.to_array(tensor), "w"))
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
        digests.append(load_backbone(f"onnx:{folder / 'net.onnx'}").weights_digest)
    assert (tmp_path / "one" / "net.onnx").read_bytes() == (tmp_path / "two" / "net.onnx").read_bytes()
    assert digests[0] != digests[1]
    (tmp_path / "one" / "net.data").unlink()
    with pytest.raises(BackboneError) as caught:
        load_backbone(f"onnx:{tmp_path / 'one' / 'net.onnx'}")
    assert "\n" not in str(caught.value)


def test_any_file_name_will_do(tmp_path):
    write(tmp_path / "NET.ONNX")
    backbone = load_backbone(f"onnx:{tmp_path / 'NET.ONNX'}")
    again = load_backbone(backbone.name, weights=backbone.weights, layer=backbone.layer, pool=backbone.pool)
    assert again.spec() == backbone.spec()


def simple_graph(path, nodes, elem_type, shape, outputs=("out",)):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", elem_type, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array([1, -1], np.int64), "flat")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_graph_on_raw_pixels_is_not_normalised_and_says_no_untruth(tmp_path):
    path = tmp_path / "raw.onnx"
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["out"], axes=[1, 2], keepdims=0),
    ]
    simple_graph(path, nodes, TensorProto.UINT8, ["b", SIZE, SIZE, 3])
    backbone = load_backbone(f"onnx:{path}")
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_allclose(open_runtime(backbone)(pixels), pixels.mean((1, 2)), rtol=1e-5)
    assert not any("normalise" in note for note in backbone.notes)
    bgr = load_backbone(f"onnx:{path}", overrides=PreprocessOverrides(channels="bgr"))
    np.testing.assert_allclose(open_runtime(bgr)(pixels), pixels.mean((1, 2))[:, ::-1], rtol=1e-5)
    with pytest.raises(UsageError, match="leave --mean and --std out"):
        load_backbone(f"onnx:{path}", overrides=PreprocessOverrides(mean=(0, 0, 0)))


def test_tokens_are_pooled_over_all_of_them_and_it_is_said(tmp_path):
    path = tmp_path / "tokens.onnx"
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["rows"], axes=[3], keepdims=0),
        helper.make_node("Transpose", ["rows"], ["out"], perm=[0, 2, 1]),
    ]
    simple_graph(path, nodes, TensorProto.FLOAT, ["b", 3, SIZE, SIZE])
    raw = PreprocessOverrides(mean=(0, 0, 0), std=(1 / 255,) * 3)
    backbone = load_backbone(f"onnx:{path}", overrides=raw)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    assert (backbone.pool, backbone.dim) == ("avg", 3)
    assert any("pooled by avg" in note for note in backbone.notes)
    np.testing.assert_allclose(open_runtime(backbone)(pixels), pixels.mean((1, 2)), rtol=1e-4)
    first = load_backbone(f"onnx:{path}", pool="cls", overrides=raw)
    np.testing.assert_allclose(open_runtime(first)(pixels), pixels[:, 0].mean(1), rtol=1e-4)


def test_a_file_of_any_name_is_found_from_its_own_folder(tmp_path, monkeypatch):
    for name in ("net.onnx", "NET.ONNX", "weights.model"):
        write(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert load_backbone("onnx:moved.onnx", weights=name).dim == 8


def test_constants_of_nodes_in_side_files_count_and_none_lies_elsewhere(tmp_path):
    constant = numpy_helper.from_array(np.ones((3, 4), np.float32), "c")
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("MatMul", ["mean", "c"], ["out"]),
    ]
    simple_graph(tmp_path / "whole.onnx", nodes, TensorProto.FLOAT, ["b", 3, SIZE, SIZE])
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "net.onnx"
    model = onnx.load(tmp_path / "whole.onnx")
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0, convert_attribute=True)
    before = load_backbone(f"onnx:{path}", layer="output").weights_digest
    data = tmp_path / "in" / "net.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    assert load_backbone(f"onnx:{path}", layer="output").weights_digest != before
    data.rename(tmp_path / "net.data")
    data.symlink_to(tmp_path / "net.data")
    with pytest.raises(BackboneError, match=r"net\.data"):
        load_backbone(f"onnx:{path}", layer="output")


def test_the_crop_of_a_file_is_not_for_the_list_of_its_layers(tmp_path):
    write(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="--crop"):
        list_layers(f"onnx:{tmp_path / 'net.onnx'}", crop=99)
