"""Masked generative distillation: the sum by hand, and masks that hide whole channels by sample and view alone."""

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn

from distill.errors import RecipeError
from distill.losses.mgd import MGD
from distill.structures import FeatureShape


def mgd(channels: int, size: int = 1, mask_ratio: float = 0.0) -> MGD:
    """With generators that copy positive maps: middle taps of 1."""
    loss = MGD(layers=["layer4"], mask_ratio=mask_ratio)
    shape = FeatureShape(channels, size, size)
    loss.setup(info(layer4=shape), info(layer4=shape))
    for convolution in (loss.generators[0][0], loss.generators[0][2]):
        nn.init.zeros_(convolution.bias)
        nn.init.dirac_(convolution.weight)
    return loss


def seen(loss: MGD, channels: int, drawn) -> torch.Tensor:
    """[N, C]: whether a channel of a sample is seen: the gradient of a sum of squares about 0, 2 x / N, at x = 1."""
    student = torch.ones(len(drawn.labels), channels, 1, 1, requires_grad=True)
    loss(outputs(layer4=student), outputs(layer4=torch.zeros_like(student)), drawn).backward()
    return (student.grad.flatten(1) * len(drawn.labels) / 2).round().bool()


def test_mgd_by_hand():
    # nothing hidden: the sum of squares over a sample's elements, mean over two samples
    student = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).reshape(2, 2, 1, 1)
    teacher = torch.tensor([[0.0, 4.0], [3.0, -1.0]]).reshape(2, 2, 1, 1)
    value = mgd(2)(outputs(layer4=student), outputs(layer4=teacher), batch([0, 0]))
    assert value.item() == pytest.approx((1 + 4 + 0 + 1) / 2, rel=1e-6)


def test_mgd_is_a_sum_over_elements_that_grows_with_the_map():
    student, teacher = torch.full((3, 4, 6, 6), 2.0), torch.zeros(3, 4, 6, 6)
    value = mgd(4, size=6)(outputs(layer4=student), outputs(layer4=teacher), batch([0, 0, 0]))
    assert value.item() == pytest.approx(4 * 4 * 36, rel=1e-6)


def test_whole_channels_are_hidden_and_the_rest_is_not_scaled():
    loss = mgd(8, size=3, mask_ratio=0.5)
    student = torch.full((16, 8, 3, 3), 2.0)
    value = loss(outputs(layer4=student), outputs(layer4=torch.zeros_like(student)), batch([0] * 16))
    num_seen = value.item() * 16 / (4 * 9)  # each seen channel gives 9 squares of 2
    assert num_seen == pytest.approx(round(num_seen), abs=1e-3)
    assert num_seen == seen(loss, 8, batch([0] * 16)).sum().item()


def test_the_share_of_hidden_channels_is_the_ratio():
    is_seen = seen(mgd(64, mask_ratio=0.15), 64, batch([0] * 512))
    assert is_seen.float().mean().item() == pytest.approx(0.85, abs=0.01)  # 32,768 draws: a standard deviation of 0.002
    assert is_seen.float().mean(dim=0).std().item() < 0.05  # no channel is favoured


def test_the_mask_depends_on_sample_and_view_only():
    loss, drawn = mgd(32, mask_ratio=0.5), batch([0, 0, 0, 0])
    is_seen = seen(loss, 32, drawn)
    assert torch.equal(is_seen, seen(loss, 32, drawn))
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(is_seen[order], seen(loss, 32, drawn._replace(sample_ids=drawn.sample_ids[order])))
    assert not torch.equal(is_seen, seen(loss, 32, batch([0, 0, 0, 0], view=1)))
    assert not torch.equal(is_seen[0], is_seen[1])


def test_layers_have_masks_of_their_own():
    loss = MGD(layers=["layer3", "layer4"], mask_ratio=0.5)
    shape = FeatureShape(32, 1, 1)
    loss.setup(info(layer3=shape, layer4=shape), info(layer3=shape, layer4=shape))
    maps = {layer: torch.ones(1, 32, 1, 1, requires_grad=True) for layer in loss.layers}
    loss(outputs(**maps), outputs(layer3=normal(1, 32, 1, 1), layer4=normal(1, 32, 1, 1)), batch([0])).backward()
    assert not torch.equal(maps["layer3"].grad == 0, maps["layer4"].grad == 0)


def test_other_widths_are_aligned_and_everything_learns():
    loss = MGD(layers=["layer4"])
    loss.setup(info(layer4=FeatureShape(3, 4, 4)), info(layer4=FeatureShape(5, 4, 4)))
    student = normal(2, 3, 4, 4, seed=1).requires_grad_()
    loss(outputs(layer4=student), outputs(layer4=normal(2, 5, 4, 4, seed=2)), batch([0, 0])).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in [student, *loss.parameters()])
    assert sum(parameter.numel() for parameter in loss.parameters()) == (3 * 5 + 5) + 2 * (9 * 5 * 5 + 5)


def test_mgd_sums_big_half_precision_maps_in_float32():
    student = torch.full((2, 4, 6, 6), 300.0)  # 144 squares of 300 are 1.3e7, above the largest float16
    value = mgd(4, size=6)(outputs(layer4=student.half()), outputs(layer4=torch.zeros_like(student).half()), batch([0, 0]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(144 * 300**2, rel=1e-3)


@pytest.mark.parametrize("mask_ratio", [1, 1.5, -0.1, float("nan")])
def test_mgd_refuses_a_mask_that_leaves_nothing(mask_ratio):
    with pytest.raises(RecipeError, match=f"mask_ratio must be at least 0 and below 1, got {mask_ratio}"):
        MGD(mask_ratio=mask_ratio)


def test_students_map_is_pooled_to_the_teachers_size():
    loss = mgd(1)
    student = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)  # mean 3
    value = loss(outputs(layer4=student), outputs(layer4=torch.tensor([5.0]).view(1, 1, 1, 1)), batch([0]))
    assert value.item() == pytest.approx((3 - 5) ** 2, rel=1e-6)
