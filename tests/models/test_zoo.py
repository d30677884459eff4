"""Networks by name, and the sentences for names and options that don't exist."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from distill.errors import RecipeError
from distill.models.norms import FrozenBatchNorm2d
from distill.models.resnet import ResNet, resnet18
from distill.models.zoo import create_model, describe, find_head, model_exists
from distill.structures import FeatureShape


def test_plain_name_with_options_builds_our_resnet():
    model = create_model(
        "resnet50",
        num_classes=4,
        norm="frozen",
        stem="small",
        in_channels=1,
        arguments={"replace_stride_with_dilation": [False, True, True]},
    )
    assert isinstance(model, ResNet)
    assert isinstance(model.bn1, FrozenBatchNorm2d)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert model.layer4[0].conv2.dilation == (2, 2)
    assert model.fc.out_features == 4


@pytest.mark.parametrize("name, kind", [("torchvision/mobilenet_v3_small", torchvision.models.MobileNetV3), ("timm/resnet18", timm.models.ResNet)])
def test_prefix_builds_that_librarys_network_with_our_class_count(name, kind):
    model = create_model(name, num_classes=4)
    assert isinstance(model, kind)
    assert find_head(model)[1].out_features == 4


def test_timm_network_takes_in_channels_and_arguments():
    model = create_model("timm/resnet18", num_classes=4, in_channels=1, arguments={"drop_rate": 0.25})
    assert model.conv1.in_channels == 1
    assert model.drop_rate == 0.25


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet19", "did you mean 'resnet18'"),
        ("mobilenet_v2", "did you mean 'torchvision/mobilenet_v2'"),
        ("vit_tiny_patch16_224", "did you mean 'timm/vit_tiny_patch16_224'"),
        ("torchvision/resnet51", "did you mean 'torchvision/resnet50'"),
        ("timm/resnt50", "did you mean 'timm/resnet50'"),
        ("timm/resnet50.no_such_tag", "is unknown"),
        ("torchvison/resnet50", "did you mean 'torchvision'"),
        ("", "is unknown"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_of_its_family(name, expected):
    assert expected in model_exists(name)
    with pytest.raises(RecipeError, match="is unknown"):
        create_model(name, num_classes=4)


@pytest.mark.parametrize("name", ["wide_resnet101_2", "torchvision/vit_b_16", "timm/resnet50", "timm/resnet50.a1_in1k"])
def test_known_name_exists_without_building_it(name, monkeypatch):
    monkeypatch.setattr(nn.Module, "__init__", lambda *_, **__: pytest.fail("built a module"))
    assert model_exists(name) is None


@pytest.mark.parametrize(
    "name, argument, allowed",
    [
        ("resnet18", "zero_init_residul", "zero_init_residual"),
        ("torchvision/mobilenet_v2", "width_mul", "width_mult"),
        ("torchvision/regnet_x_400mf", "norm_activation", "activation"),
        ("timm/resnet18", "drop_rat", "drop_rate"),
    ],
)
def test_unknown_argument_is_refused_with_the_allowed_ones(name, argument, allowed):
    with pytest.raises(RecipeError, match=f"argument {argument!r} is unknown.*allowed: .*{allowed}"):
        create_model(name, num_classes=4, arguments={argument: 1})


@pytest.mark.parametrize("argument", ["pretrained", "weights", "num_classes", "norm_layer"])
def test_arguments_can_not_set_what_the_recipe_says_elsewhere(argument):
    with pytest.raises(RecipeError, match=f"can't set {argument}"):
        create_model("resnet18", num_classes=4, arguments={argument: 1})


@pytest.mark.parametrize(
    "name, options, reason",
    [
        ("resnet18", {"arguments": {"groups": 2}}, "BasicBlock knows only groups=1"),
        ("resnet18", {"stem": "smal"}, "imagenet, small; did you mean 'small'"),
        ("resnet18", {"norm": "bacth"}, "did you mean 'batch'"),
        ("torchvision/resnet18", {"norm": "group"}, "norm='group' is an option of our own ResNets"),
        ("timm/resnet18", {"stem": "small"}, "stem='small' is an option of our own ResNets"),
        ("torchvision/resnet18", {"in_channels": 1}, "in_channels=1 is an option of our own ResNets"),
    ],
)
def test_option_that_a_network_does_not_have_is_refused(name, options, reason):
    with pytest.raises(RecipeError, match=reason):
        create_model(name, num_classes=4, **options)


@pytest.mark.parametrize(
    "name, path",
    [
        ("resnet18", "fc"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("timm/resnet18", "fc"),
        ("timm/mobilenetv3_small_050", "classifier"),
        ("timm/test_convnext", "head.fc"),
    ],
)
def test_head_is_found_by_path(name, path):
    model = create_model(name, num_classes=4)
    found, head = find_head(model)
    assert found == path
    assert head is model.get_submodule(path)
    assert head.out_features == 4


def test_network_without_linear_layer_has_no_head():
    with pytest.raises(RecipeError, match="no linear layer"):
        find_head(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_description_carries_a_copy_of_the_head():
    model = resnet18(num_classes=4)
    info = describe(model, "resnet18", {"pooled": FeatureShape(512)}, 4)
    before = model.fc.weight.detach().clone()
    info.head_weight.add_(1)
    info.head_bias.add_(1)
    assert torch.equal(model.fc.weight, before)
    assert not info.head_weight.requires_grad
    assert (info.name, info.num_classes, info.shapes) == ("resnet18", 4, {"pooled": FeatureShape(512)})


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Linear(3, 8), nn.Conv2d(8, 4, 1))])
def test_description_of_a_network_that_ends_in_a_convolution_has_no_head(model):
    assert describe(model, "mine", {}, 4).head_weight is None
