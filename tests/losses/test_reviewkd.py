"""Knowledge review: pyramid and fusion by hand and against torchdistill, and maps of any shape."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn
from torchdistill.losses.mid_level import HierarchicalContextLoss
from torchdistill.models.wrapper import AttentionBasedFusion

from distill.errors import RecipeError
from distill.losses._fusion import Fusion
from distill.losses.reviewkd import ReviewKD, pyramid_mse
from distill.structures import FeatureShape


def randomise(module: nn.Module) -> None:
    """Other values than the initial ones for every parameter, norms included."""
    for index, parameter in enumerate(module.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=index))


def test_pyramid_by_hand():
    # 2x2 maps: the whole with weight 1, and the mean over the map (1x1) with weight 1/2
    difference = torch.tensor([[[[1.0, 2.0], [3.0, -2.0]]], [[[0.0, 0.0], [0.0, 4.0]]]])
    whole = (1 + 4 + 9 + 4 + 16) / 8
    pooled = (1.0**2 + 1.0**2) / 2  # means over the places: 4 / 4 and 4 / 4
    assert pyramid_mse(difference, torch.zeros_like(difference)).item() == pytest.approx((whole + pooled / 2) / 1.5, rel=1e-6)


def test_pyramid_of_a_single_place_is_the_mean_square():
    assert pyramid_mse(torch.tensor([[3.0, 1.0]]).reshape(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)).item() == pytest.approx((9 + 1) / 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_pyramid_equals_torchdistills(size):
    teacher = normal(3, 4, size, size, seed=2)
    theirs = HierarchicalContextLoss("fused", "output", "layer1", "output")
    results = []
    for ours in (True, False):
        student = normal(3, 4, size, size, seed=1).requires_grad_()
        if ours:
            value = pyramid_mse(student, teacher)
        else:
            value = theirs({"fused": {"output": (student, None)}}, {"layer1": {"output": teacher}})
        value.backward()
        results.append((value, student.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_fusion_by_hand():
    # One channel everywhere, 1x1 convolutions of weight 1 in eval mode: the features enter as they are, but for 1 / sqrt(1 + 1e-5).
    fusion = Fusion([FeatureShape(1, 1, 2), FeatureShape(1, 1, 1)], [FeatureShape(1, 1, 2), FeatureShape(1)], mid_channels=1).eval()
    with torch.no_grad():
        for convolution, _norm in [*fusion.enter, *fusion.leave]:
            convolution.weight.zero_()
            convolution.weight[:, :, convolution.kernel_size[0] // 2, convolution.kernel_size[1] // 2] = 1
        fusion.attend[0].weight.zero_()
        fusion.attend[0].bias.copy_(torch.tensor([math.log(3), 0.0]))  # sigmoid: 3/4 for the level itself, 1/2 for the one below
    shallow, deep = fusion(torch.tensor([4.0, 8.0]).reshape(1, 1, 1, 2), torch.tensor([[10.0]]))
    assert deep.flatten().tolist() == pytest.approx([10.0], rel=1e-4)
    assert shallow.flatten().tolist() == pytest.approx([0.75 * 4 + 0.5 * 10, 0.75 * 8 + 0.5 * 10], rel=1e-4)


def test_fusion_equals_torchdistills():
    widths, wider, sizes = [2, 3, 4], [5, 6, 7], [6, 3, 1]
    students = [FeatureShape(channels, size, size) for channels, size in zip(widths, sizes, strict=True)]
    fusion = Fusion(students, [FeatureShape(channels, *shape[1:]) for channels, shape in zip(wider, students, strict=True)], mid_channels=4)
    randomise(fusion)
    theirs = [AttentionBasedFusion(ours, 4, out, uses_attention=index < 2) for index, (ours, out) in enumerate(zip(widths, wider, strict=True))]
    for index, block in enumerate(theirs):
        block.conv1.load_state_dict(fusion.enter[index].state_dict())
        block.conv2.load_state_dict(fusion.leave[index].state_dict())
        if index < 2:
            block.attention_conv[0].load_state_dict(fusion.attend[index].state_dict())
    results = []
    for ours in (True, False):
        features = [normal(3, *shape, seed=index).requires_grad_() for index, shape in enumerate(students)]
        if ours:
            outs = fusion(*features)
        else:
            outs, rest = [], None
            for index in (2, 1, 0):
                out, rest = theirs[index](features[index], rest, sizes[index])
                outs.insert(0, out)
        sum((index + 1) * out.square().mean() for index, out in enumerate(outs)).backward()
        results.append((outs, [feature.grad for feature in features]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_reviewkd_sums_the_pyramids_of_all_levels():
    shapes = {"layer4.pre": FeatureShape(3, 2, 2), "pooled": FeatureShape(3)}
    wider = {"layer4.pre": FeatureShape(5, 2, 2), "pooled": FeatureShape(5)}
    loss = ReviewKD(layers=list(shapes), mid_channels=4)
    loss.setup(info(**shapes), info(**wider))
    features = {"layer4.pre": normal(3, 3, 2, 2, seed=1), "pooled": normal(3, 3, seed=2)}
    targets = {"layer4.pre": normal(3, 5, 2, 2, seed=3), "pooled": normal(3, 5, seed=4)}
    value = loss(outputs(**features), outputs(**targets), batch([0, 0, 0]))
    shallow, deep = loss.fusion(*features.values())
    expected = pyramid_mse(shallow, targets["layer4.pre"]) + (deep.flatten(1) - targets["pooled"]).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_any_shape_is_taken_and_everything_learns(samples):
    # maps that are no squares, of other sizes in the teacher, 1x1 maps, and a single sample in training mode
    layers = ["layer2.pre", "layer3.pre", "layer4.pre", "pooled"]
    students = dict(zip(layers, [FeatureShape(2, 5, 3), FeatureShape(3, 2, 4), FeatureShape(4, 1, 1), FeatureShape(4)], strict=True))
    teachers = dict(zip(layers, [FeatureShape(6, 7, 7), FeatureShape(7, 2, 4), FeatureShape(8, 1, 1), FeatureShape(8)], strict=True))
    loss = ReviewKD(layers=layers, mid_channels=4)
    loss.setup(info(**students), info(**teachers))
    features = {layer: normal(samples, *filter(None, shape), seed=1).requires_grad_() for layer, shape in students.items()}
    targets = {layer: normal(samples, *filter(None, shape), seed=2) for layer, shape in teachers.items()}
    value = loss(outputs(**features), outputs(**targets), batch([0] * samples))
    value.backward()
    assert value.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in [*features.values(), *loss.parameters()])


def test_a_single_sample_of_one_place_takes_the_running_statistics_where_torchdistill_stops():
    fusion = Fusion([FeatureShape(3)], [FeatureShape(5)], mid_channels=4)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        AttentionBasedFusion(3, 4, 5, uses_attention=False)(normal(1, 3, 1, 1))
    trained = fusion.train()(normal(1, 3))[0]
    assert torch.equal(trained, fusion.eval()(normal(1, 3))[0])


def test_reviewkd_refuses_no_channels():
    with pytest.raises(RecipeError, match="mid_channels must be above 0, got 0"):
        ReviewKD(mid_channels=0)
