"""CIFAR ResNets against sizes worked out by hand, the tables of papers, and what all networks here promise."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from distill.errors import DataError, RecipeError
from distill.models.blocks import BasicBlock
from distill.models.cifar_resnet import CIFAR_RESNETS, CifarResNet, PaddingShortcut
from distill.models.folding import fold_batch_norms
from distill.models.hooks import FeatureHooks, measure_shapes
from distill.models.resnet import resnet18
from distill.models.weight_sources import read_source
from distill.models.weights import load_weights, save_weights
from distill.models.zoo import create_model, describe, find_head
from distill.structures import FeatureShape

DEPTHS = {
    "resnet8": 8,
    "resnet14": 14,
    "resnet20": 20,
    "resnet32": 32,
    "resnet44": 44,
    "resnet56": 56,
    "resnet110": 110,
    "resnet8x4": 8,
    "resnet32x4": 32,
}
# with 100 classes and projections: the tables of CRD's and later papers' code; with 10 classes and padding: He et al. 2015, table 6 (0.27 to 1.7 M)
PUBLISHED = {"resnet20": 278_324, "resnet32": 472_756, "resnet56": 861_620, "resnet110": 1_736_564, "resnet8x4": 1_233_540, "resnet32x4": 7_433_860}
TABLE_6 = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018, "resnet110": 1_727_962}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def widths(name: str) -> tuple[int, int, int, int]:
    """Channels of the stem and of the three stages."""
    return (32, 64, 128, 256) if name.endswith("x4") else (16, 16, 32, 64)


def expected_parameters(name: str, num_classes: int, *, projects: bool) -> int:
    """A convolution k x k from i to o channels has k k i o weights, a norm two for each channel, the classifier (channels + 1) for each class."""
    blocks, channels = (DEPTHS[name] - 2) // 6, widths(name)
    total = 9 * 3 * channels[0] + 2 * channels[0]
    for before, own in itertools.pairwise(channels):
        total += 9 * before * own + 9 * own * own + 4 * own  # the first block
        total += (blocks - 1) * (2 * 9 * own * own + 4 * own)
        if projects and before != own:
            total += before * own + 2 * own
    return total + (channels[-1] + 1) * num_classes


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CIFAR_RESNETS)
def test_parameters_are_those_worked_out_by_hand_and_published(name):
    with torch.device("meta"):
        projecting, padding = CIFAR_RESNETS[name](num_classes=100), CIFAR_RESNETS[name](num_classes=10, shortcut="padding")
    assert count(projecting) == expected_parameters(name, 100, projects=True) == PUBLISHED.get(name, count(projecting))
    assert count(padding) == expected_parameters(name, 10, projects=False) == TABLE_6.get(name, count(padding))


@pytest.mark.parametrize("name", CIFAR_RESNETS)
def test_depth_is_what_the_name_says(name):
    with torch.device("meta"):
        layers = [path for path, module in CIFAR_RESNETS[name]().named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len([path for path in layers if "downsample" not in path]) == DEPTHS[name]


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet8x4", "resnet32x4"])
def test_stages_have_the_papers_widths_and_halve_the_picture_twice(name, shortcut):
    model = create_model(name, num_classes=7, arguments={"shortcut": shortcut})
    _, one, two, three = widths(name)
    with FeatureHooks(model, ["layer1", "layer2", "layer3", "last", "layer3.pre", "pooled"]) as hooks:
        assert measure_shapes(model, hooks, 32) == {
            "layer1": FeatureShape(one, 32, 32),
            "layer2": FeatureShape(two, 16, 16),
            "layer3": FeatureShape(three, 8, 8),
            "last": FeatureShape(three, 8, 8),
            "layer3.pre": FeatureShape(three, 8, 8),
            "pooled": FeatureShape(three),
        }
    assert model(IMAGES).shape == (2, 7)


def test_features_are_what_their_names_say():
    model = create_model("resnet14", num_classes=7).eval()
    with FeatureHooks(model, ["layer2", "layer2.pre", "layer3", "layer3.pre", "last", "pooled"]) as hooks:
        logits = model(IMAGES)
        found = hooks.pop()
    assert torch.equal(found["layer2"], found["layer2.pre"].relu())
    assert torch.equal(found["layer3"], found["layer3.pre"].relu())
    assert found["layer3.pre"].min() < 0
    assert torch.equal(found["last"], found["layer3"])
    torch.testing.assert_close(found["pooled"], found["layer3"].mean(dim=(2, 3)))
    path, head = find_head(model)
    assert path == "fc"
    assert torch.equal(head(found["pooled"]), logits)


def test_description_has_the_head_and_the_last_norm_of_the_main_path():
    model = create_model("resnet8", num_classes=7)
    nn.init.constant_(model.layer3[0].bn2.weight, 5)
    nn.init.constant_(model.layer3[0].downsample[1].weight, 9)
    info = describe(model, "resnet8", {}, 7, {"layer3": "layer3"})
    assert torch.equal(info.head_weight, model.fc.weight)
    assert info.norms["layer3"].weight.unique().tolist() == [5]


def test_layer_that_is_lacking_is_said_with_those_that_are_there():
    with pytest.raises(
        RecipeError, match=r"CifarResNet has no feature 'layer4'; it has layer1, layer2, layer3, pooled, last, .*did you mean 'layer3'"
    ):
        FeatureHooks(create_model("resnet8", num_classes=7), ["layer4"])


def test_lacking_layer_can_be_mapped_to_one_that_is_there():
    model = create_model("resnet8", num_classes=7)
    with FeatureHooks(model, ["layer4"], {"layer4": "layer3"}) as hooks:
        assert measure_shapes(model, hooks, 32) == {"layer4": FeatureShape(64, 8, 8)}


@pytest.mark.parametrize("side", [4, 5])
def test_padding_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros(side):
    images = torch.arange(2.0 * side * side).view(1, 2, side, side)
    found = PaddingShortcut(3, 2)(images)
    assert found.shape == (1, 3, (side + 1) // 2, (side + 1) // 2)
    assert found[0, 0, 0].tolist() == list(range(0, side, 2))
    assert torch.equal(found[:, :2], images[:, :, ::2, ::2])
    assert not found[:, 2].any()


def test_shortcuts_are_where_width_or_size_change_and_only_there():
    def shortcuts(model: nn.Module) -> list[str]:
        return [path for path, module in model.named_modules() if isinstance(module, BasicBlock) and module.downsample is not None]

    with torch.device("meta"):
        assert shortcuts(CIFAR_RESNETS["resnet20"]()) == ["layer2.0", "layer3.0"]
        assert shortcuts(CIFAR_RESNETS["resnet8x4"]()) == ["layer1.0", "layer2.0", "layer3.0"]
        assert shortcuts(CIFAR_RESNETS["resnet20"](shortcut="padding")) == ["layer2.0", "layer3.0"]


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_every_parameter_has_a_gradient(shortcut):
    model = CIFAR_RESNETS["resnet14"](num_classes=7, shortcut=shortcut)
    model(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_zero_init_residual_makes_each_block_an_identity_at_the_start():
    block = CIFAR_RESNETS["resnet14"](zero_init_residual=True).layer1[0]
    positive = torch.rand(2, 16, 4, 4)
    assert torch.equal(block(positive), positive)


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_folded_batch_norms_give_the_same_answers(shortcut):
    model = CIFAR_RESNETS["resnet8"](num_classes=7, shortcut=shortcut)
    for _ in range(3):
        model(IMAGES)  # statistics that are not 0 and 1
    model.eval().requires_grad_(False)
    expected = model(IMAGES)
    fold_batch_norms(model, IMAGES)
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_norm_and_channels_are_the_recipes():
    model = create_model("resnet8x4", num_classes=7, norm="group", in_channels=1)
    assert isinstance(model.layer1[0].downsample[1], nn.GroupNorm)
    assert model.conv1.weight.shape == (32, 1, 3, 3)
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 7)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"arguments": {"shortcut": "pad"}}, "shortcut is one of projection, padding, not 'pad'"),
        ({"arguments": {"blocks": 2}}, "argument 'blocks' is unknown; allowed: shortcut, zero_init_residual"),
        ({"arguments": {"width": 8}}, "argument 'width' is unknown"),
        ({"arguments": {"shortcuts": "padding"}}, "did you mean 'shortcut'"),
        ({"stem": "small"}, "always begins with a 3x3 convolution, the small stem: leave stem out"),
        ({"stem": "smal"}, "did you mean 'small'"),
        ({"norm": "bacth"}, "did you mean 'batch'"),
    ],
)
def test_what_they_do_not_have_is_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        create_model("resnet20", num_classes=4, **options)


def test_name_that_is_nearly_one_of_theirs_is_pointed_to_it():
    with pytest.raises(RecipeError, match=r"one of resnet18, .*resnet20, .*did you mean 'resnet32x4'"):
        create_model("resnet32_x4", num_classes=4)


def test_weights_go_to_a_file_and_back(tmp_path):
    model, other = (CIFAR_RESNETS["resnet8"](num_classes=7) for _ in range(2))
    model(IMAGES)
    save_weights(model.state_dict(), tmp_path / "a.safetensors")
    load_weights(other, "resnet8", str(tmp_path / "a.safetensors"), num_classes=7)
    assert torch.equal(model.eval()(IMAGES), other.eval()(IMAGES))


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_weights_of_another_depth_are_recognised_whatever_their_shortcuts(shortcut, tmp_path):
    save_weights(CIFAR_RESNETS["resnet14"](num_classes=7, shortcut=shortcut).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"these are resnet14 weights: set teacher\.model=resnet14"):
        load_weights(CIFAR_RESNETS["resnet8"](num_classes=7), "resnet8", str(tmp_path / "a.safetensors"), num_classes=7)
    with pytest.raises(DataError, match="these are resnet14 weights"):
        load_weights(resnet18(num_classes=7), "resnet18", str(tmp_path / "a.safetensors"), num_classes=7)


def test_weights_of_the_other_shortcut_are_refused_by_the_names_that_differ(tmp_path):
    save_weights(CIFAR_RESNETS["resnet8"](num_classes=7).state_dict(), tmp_path / "a.safetensors")
    padding = CifarResNet(1, 16, 16, num_classes=7, shortcut="padding")
    with pytest.raises(DataError, match=r"not in the network .*layer2\.0\.downsample\.0\.weight") as refused:
        load_weights(padding, "resnet8", str(tmp_path / "a.safetensors"), num_classes=7)
    assert "set teacher.model" not in str(refused.value)


def test_torchvision_has_no_weights_for_them():
    with pytest.raises(RecipeError, match=r"are for resnet18, .* and torchvision/NAME, not for 'resnet20'"):
        read_source("torchvision:IMAGENET1K_V1", "resnet20")
