"""Variational information distillation: the normal density by hand, torchdistill, and variances that learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import VIDLoss

from distill.errors import RecipeError
from distill.losses.vid import VID, vid
from distill.structures import FeatureShape


def test_vid_by_hand():
    loss = VID(layers=["pooled"], initial_variance=2.0)
    loss.setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(1)))
    with torch.no_grad():
        loss.projectors[0].linear.weight.copy_(torch.tensor([[2.0, -1.0]]))
        loss.projectors[0].linear.bias.fill_(0.5)
    # predicted: 2 * 1 - 3 + 0.5 = -0.5 against 1.5, and 2 * 2 - 0 + 0.5 = 4.5 against 3.5; -log of the density without log(2 pi) / 2
    value = loss(outputs(pooled=torch.tensor([[1.0, 3.0], [2.0, 0.0]])), outputs(pooled=torch.tensor([[1.5], [3.5]])), batch([0, 0]))
    first, second = (4 / 2 + math.log(2)) / 2, (1 / 2 + math.log(2)) / 2
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-4)


def test_vid_sums_over_layers_of_maps_and_vectors():
    shapes = {"layer3": FeatureShape(2, 4, 4), "pooled": FeatureShape(2)}
    wider = {"layer3": FeatureShape(5, 2, 2), "pooled": FeatureShape(6)}
    features = {"layer3": normal(3, 2, 4, 4), "pooled": normal(3, 2)}
    targets = {"layer3": normal(3, 5, 2, 2), "pooled": normal(3, 6)}
    loss = VID(layers=["layer3", "pooled"], initial_variance=1.0)
    loss.setup(info(**shapes), info(**wider))
    value = loss(outputs(**features), outputs(**targets), batch([0, 0, 0]))
    halves = [0.5 * F.mse_loss(projector(features[name]), targets[name]) for name, projector in zip(features, loss.projectors, strict=True)]
    assert value.item() == pytest.approx(sum(halves).item(), rel=1e-4)  # with a variance of 1 half the mean square is left


@pytest.mark.parametrize("shape", [(4, 5, 3, 2), (4, 5)])
def test_vid_equals_torchdistills(shape):
    target, raw = normal(*shape, seed=2), normal(5, seed=3)
    values, gradients = [], []
    for theirs in (False, True):
        mean, variance = normal(*shape, seed=1).requires_grad_(), raw.clone().requires_grad_()
        if theirs:
            spread = (F.softplus(variance) + 1e-5).reshape(-1, *[1] * (len(shape) - 2))
            pair = {"student": {"path": "mean", "io": "output"}, "teacher": {"path": "layer3", "io": "output"}}
            value = VIDLoss({"pair": pair})({"mean": {"output": (mean, spread)}}, {"layer3": {"output": target}})
        else:
            value = vid(mean, F.softplus(variance) + 1e-5, target)
        value.backward()
        values.append(value.item())
        gradients.append(torch.cat([mean.grad.flatten(), variance.grad]))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_each_channels_best_variance_is_its_mean_squared_error():
    mean, target = normal(6, 3, 2, 2, seed=1, dtype=torch.float64), normal(6, 3, 2, 2, seed=2, dtype=torch.float64)
    variance = (mean - target).square().mean(dim=(0, 2, 3)).requires_grad_()
    vid(mean, variance, target).backward()
    assert variance.grad.abs().max().item() < 1e-12


def test_the_variances_are_trained_unlike_mdistillers():
    loss = VID(layers=["layer3", "layer4"])
    loss.setup(info(layer3=FeatureShape(2, 4, 4), layer4=FeatureShape(3, 2, 2)), info(layer3=FeatureShape(5, 4, 4), layer4=FeatureShape(6, 2, 2)))
    learned = {name: parameter for name, parameter in loss.named_parameters() if "variance" in name}
    assert [len(parameter) for parameter in learned.values()] == [5, 6]
    assert all(F.softplus(parameter).tolist() == pytest.approx([5.0] * len(parameter), rel=1e-5) for parameter in learned.values())
    value = loss(
        outputs(layer3=normal(2, 2, 4, 4), layer4=normal(2, 3, 2, 2)), outputs(layer3=normal(2, 5, 4, 4), layer4=normal(2, 6, 2, 2)), batch([0, 0])
    )
    value.backward()
    assert all((parameter.grad != 0).all() for parameter in learned.values())


def test_a_variance_that_shrinks_to_nothing_stays_finite():
    loss = VID(layers=["pooled"], initial_variance=1e-30)
    loss.setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(2)))
    with torch.no_grad():
        loss.raw_variances[0].fill_(-1000.0)
    value = loss(outputs(pooled=normal(2, 2, seed=1)), outputs(pooled=normal(2, 2, seed=2)), batch([0, 0]))
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("initial_variance", [0, -1.0, float("nan")])
def test_vid_refuses_a_variance_that_is_none(initial_variance):
    with pytest.raises(RecipeError, match=f"initial_variance must be above 0, got {initial_variance}"):
        VID(initial_variance=initial_variance)
