"""FitNet hints by hand: vectors, maps, and a projector for each layer."""

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.losses.fitnet import FitNet
from distill.structures import FeatureShape

# Romero et al., 2015: equation 3, with the mean over every element in place of half the squared norm


def test_fitnet_of_vectors_by_hand():
    loss = FitNet(layers=["pooled"])
    loss.setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(1)))
    with torch.no_grad():
        loss.projectors[0].linear.weight.copy_(torch.tensor([[2.0, -1.0]]))
        loss.projectors[0].linear.bias.fill_(0.5)
    # 2 * 1 - 3 + 0.5 = -0.5 against 1.5, and 2 * 2 - 0 + 0.5 = 4.5 against 3.5: (4 + 1) / 2
    value = loss(outputs(pooled=torch.tensor([[1.0, 3.0], [2.0, 0.0]])), outputs(pooled=torch.tensor([[1.5], [3.5]])), batch([0, 0]))
    assert value.item() == pytest.approx(2.5, rel=1e-6)


def test_fitnet_of_maps_by_hand():
    loss = FitNet(layers=["layer3"])
    loss.setup(info(layer3=FeatureShape(1, 1, 2)), info(layer3=FeatureShape(2, 1, 2)))
    with torch.no_grad():
        loss.projectors[0].conv.weight.copy_(torch.tensor([1.0, -3.0]).view(2, 1, 1, 1))
    student = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(2, 1, 1, 2)
    # Normalised over batch and places, the two channels are (1, -1, 1, -1) and its negative. The teacher: zeros, but for one 3 where ours is 1.
    teacher = torch.zeros(2, 2, 1, 2)
    teacher[0, 0, 0, 0] = 3
    value = loss(outputs(layer3=student), outputs(layer3=teacher), batch([0, 0]))
    assert value.item() == pytest.approx((7 * 1 + 4) / 8, rel=1e-4)


def test_fitnet_sums_over_layers_and_trains_a_projector_for_each():
    shapes = {"layer3": FeatureShape(2, 4, 4), "pooled": FeatureShape(2)}
    wider = {"layer3": FeatureShape(5, 2, 2), "pooled": FeatureShape(6)}
    features = {"layer3": normal(3, 2, 4, 4), "pooled": normal(3, 2)}
    targets = {"layer3": normal(3, 5, 2, 2), "pooled": normal(3, 6)}
    loss = FitNet(layers=["layer3", "pooled"])
    loss.setup(info(**shapes), info(**wider))
    value = loss(outputs(**features), outputs(**targets), batch([0, 0, 0]))
    expected = sum((projector(features[name]) - targets[name]).pow(2).mean() for name, projector in zip(features, loss.projectors, strict=True))
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in loss.named_parameters() if "norm.weight" not in name)
    assert len(list(loss.parameters())) == 3 + 2  # convolution and norm's two; weight and bias


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_big_half_precision_maps_stay_finite_and_near_float32(dtype):
    # sums of squares of the teacher's values, 100 on average, are above the largest float16
    student, teacher = 100 * normal(4, 8, 6, 6, seed=1), 100 * normal(4, 12, 6, 6, seed=2)
    loss = FitNet(layers=["layer3"])
    loss.setup(info(layer3=FeatureShape(8, 6, 6)), info(layer3=FeatureShape(12, 6, 6)))
    exact = loss(outputs(layer3=student), outputs(layer3=teacher), batch([0])).item()
    value = loss(outputs(layer3=student.to(dtype)), outputs(layer3=teacher.to(dtype)), batch([0]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=1e-2)
