"""Our ResNets against torchvision's and timm's, which are independent implementations."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from distill.models.resnet import RESNETS, resnet18


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _random_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights cut from one piece of noise: initialising 127 M of them properly takes seconds. Norms far from identity, so a swap shows."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    noise = torch.randn(max(shape.numel() for shape in shapes.values()) + len(shapes))
    weights = {}
    for offset, (name, shape) in enumerate(shapes.items()):
        value = noise[offset : offset + shape.numel()].view(shape)
        if "running_var" in name:
            value = value.abs() + 0.5
        elif name.endswith("num_batches_tracked"):
            value = torch.tensor(offset)
        elif len(shape) > 1:
            value = value / shape[1:].numel() ** 0.5
        weights[name] = value
    return weights


def _assert_same_network(name: str, build_reference, **arguments) -> None:
    """Weights fit strictly both ways, and both give the same bits."""
    with torch.device("meta"):
        reference = build_reference(name, num_classes=7, **arguments)
        ours = RESNETS[name](num_classes=7, **arguments)
    reference.load_state_dict(_random_weights(ours), strict=True, assign=True)
    ours.load_state_dict(reference.state_dict(), strict=True, assign=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.eval()(images)
        assert torch.equal(ours.eval()(images), expected)
    assert expected.isfinite().all()
    assert expected.std() > 0


@pytest.mark.parametrize("name", RESNETS)
def test_weights_and_outputs_equal_torchvision_bit_by_bit(name):
    _assert_same_network(name, torchvision.models.get_model)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_weights_and_outputs_equal_timm_bit_by_bit(name):
    _assert_same_network(name, timm.create_model)


@pytest.mark.parametrize("dilate", [[False, True, True], [True, False, True]])
def test_dilation_equals_torchvision_bit_by_bit(dilate):
    _assert_same_network("resnet50", torchvision.models.get_model, replace_stride_with_dilation=dilate)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("zero_init_residual", [False, True])
def test_one_seed_gives_torchvisions_initial_weights(name, zero_init_residual):
    expected = torchvision.models.get_model(name, num_classes=7, zero_init_residual=zero_init_residual).state_dict()
    torch.manual_seed(0)
    ours = RESNETS[name](num_classes=7, zero_init_residual=zero_init_residual).state_dict()
    assert list(ours) == list(expected)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_gradients_equal_torchvision_bit_by_bit():
    reference = torchvision.models.resnet18(num_classes=7)
    torch.manual_seed(0)
    ours = resnet18(num_classes=7)
    images = torch.randn(2, 3, 64, 64)
    for model in (reference, ours):
        model(images).square().sum().backward()
    assert torch.equal(ours.conv1.weight.grad, reference.conv1.weight.grad)


def test_zero_init_residual_makes_each_block_an_identity_at_the_start():
    block = resnet18(num_classes=2, zero_init_residual=True).layer1[0]
    positive = torch.rand(2, 64, 4, 4)
    assert torch.equal(block(positive), positive)


def test_small_stem_keeps_the_size_of_the_picture():
    model = resnet18(num_classes=5, stem="small", in_channels=1)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    stem = model.maxpool(model.conv1(torch.zeros(1, 1, 28, 28)))
    assert stem.shape == (1, 64, 28, 28)
    assert model.layer4(model.layer3(model.layer2(model.layer1(stem)))).shape == (1, 512, 4, 4)


def test_unknown_stem_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="imagenet, small, not 'tiny'"):
        resnet18(stem="tiny")


@pytest.mark.parametrize("dilate", [[], [True, False]])
def test_replace_stride_with_dilation_has_three_entries(dilate):
    with pytest.raises(ValueError, match="layer2, layer3 and layer4"):
        resnet18(replace_stride_with_dilation=dilate)
