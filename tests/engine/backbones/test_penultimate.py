import pytest
import torch
import torchvision
from torch import nn

from tle.backbones.penultimate import cut_classifier, find_classifier, probe_images, run_module
from tle.errors import BackboneError

# One of each family of torchvision; `python -m tle.benchmarks.penultimate` goes through all of them.
FAMILIES = {
    "alexnet": ("classifier.6", 4096),
    "convnext_tiny": ("classifier.2", 768),
    "densenet121": ("classifier", 1024),
    "efficientnet_b0": ("classifier.1", 1280),
    "googlenet": ("fc", 1024),
    "inception_v3": ("fc", 2048),
    "maxvit_t": ("classifier.5", 512),
    "mnasnet0_5": ("classifier.1", 1280),
    "mobilenet_v2": ("classifier.1", 1280),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "regnet_y_400mf": ("fc", 440),
    "resnet18": ("fc", 512),
    "shufflenet_v2_x0_5": ("fc", 1024),
    "squeezenet1_1": ("classifier.1", 512),
    "swin_t": ("head", 768),
    "vgg11": ("classifier.6", 4096),
    "vit_b_32": ("heads.head", 768),
}
FIXED_SIZE = {"maxvit_t": 224, "vit_b_32": 224, "inception_v3": 96}


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_what_enters_the_last_layer_of_every_family(name):
    size = FIXED_SIZE.get(name, 64)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    example = probe_images((size, size))
    layer = model.get_submodule(FAMILIES[name][0])
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run_module(model, example)
    handle.remove()
    assert cut_classifier(model, example) == FAMILIES[name]
    features = run_module(model, example)
    expected = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
    assert features.shape == (2, FAMILIES[name][1])
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_changes_the_features_after_its_last_layer_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5), nn.Softmax(1)).eval()
    with pytest.raises(BackboneError, match="--layer"):
        cut_classifier(model, probe_images((8, 8)))


def test_a_network_without_a_classifying_layer_is_refused():
    with pytest.raises(BackboneError, match="--layer output"):
        find_classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), probe_images((8, 8)))


def test_a_size_the_network_cannot_take_is_one_line():
    model = torchvision.models.vit_b_32(weights=None).eval()
    with pytest.raises(BackboneError, match="64x64") as caught:
        run_module(model, probe_images((64, 64)))
    assert "\n" not in str(caught.value)
