"""AB: the hinge on the teacher's sign worked by hand and against torchdistill."""

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn
from torchdistill.losses.mid_level import AltActTransferLoss

from distill.errors import RecipeError
from distill.losses.ab import ActivationBoundaries, boundaries
from distill.structures import FeatureShape


def test_boundaries_by_hand():
    # margin 1. On: (1 - s)^2 up to s = 1, then nothing. Off, and 0 is off: (1 + s)^2 down to s = -1, then nothing.
    student = torch.tensor([[0.5, 3.0, -2.0, 0.5, -3.0, 2.0], [1.0, -1.0, 0.0, 0.0, 0.0, -0.5]]).view(2, 6, 1, 1)
    teacher = torch.tensor([[0.1, 7.0, 0.1, -5.0, -0.1, 0.0], [0.2, -0.2, 9.0, -9.0, 0.0, -1.0]]).view(2, 6, 1, 1)
    first = 0.5**2 + 0 + 3.0**2 + 1.5**2 + 0 + 3.0**2
    second = 0 + 0 + 1 + 1 + 1 + 0.5**2
    assert boundaries(student, teacher, 1.0).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_how_strongly_the_teacher_is_on_does_not_matter():
    student, teacher = normal(3, 4, 2, 2, seed=1), normal(3, 4, 2, 2, seed=2)
    assert boundaries(student, 1000 * teacher, 1.0).item() == boundaries(student, teacher, 1.0).item()


def test_ab_is_torchdistills_with_the_authors_factors():
    # The authors' code halves the weight of each layer before the last, and scales by 3 / 1000.
    layers = ["layer2.pre", "layer3.pre", "layer4.pre"]
    ours = {layer: normal(5, 4, 3, 3, seed=index).requires_grad_() for index, layer in enumerate(layers)}
    theirs = {layer: normal(5, 4, 3, 3, seed=10 + index) for index, layer in enumerate(layers)}
    pairs = {
        layer: {"student": {"path": layer, "io": "output"}, "teacher": {"path": layer, "io": "output"}, "weight": weight}
        for layer, weight in zip(layers, (0.25, 0.5, 1.0), strict=True)
    }
    dicts = [{layer: {"output": each} for layer, each in maps.items()} for maps in (ours, theirs)]
    peer = AltActTransferLoss(pairs, margin=1.0, reduction="mean")(*dicts) * 3 / 1000
    loss = ActivationBoundaries(layers=layers)
    loss.projectors = nn.ModuleList(nn.Identity() for _ in layers)
    value = loss(outputs(**ours), outputs(**theirs), batch([0] * 5))
    assert value.item() == pytest.approx(peer.item(), rel=1e-5)
    for feature in ours.values():
        assert torch.allclose(*(torch.autograd.grad(one, feature, retain_graph=True)[0] for one in (value, peer)), atol=1e-6)


def test_it_looks_before_the_activation_by_itself_and_trains_its_projectors():
    loss = ActivationBoundaries()
    assert loss.layers == ("layer1.pre", "layer2.pre", "layer3.pre", "layer4.pre")
    shapes, wider = ({layer: FeatureShape(width, 2, 2) for layer in loss.layers} for width in (3, 5))
    loss.setup(info(**shapes), info(**wider))
    ours, theirs = ({layer: normal(4, width, 2, 2, seed=width) for layer in loss.layers} for width in (3, 5))
    loss(outputs(**ours), outputs(**theirs), batch([0] * 4)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())


@pytest.mark.parametrize("margin", [0, -1.0, float("nan")])
def test_ab_refuses_a_margin_that_is_none(margin):
    with pytest.raises(RecipeError, match=f"margin must be above 0, got {margin}"):
        ActivationBoundaries(margin=margin)
