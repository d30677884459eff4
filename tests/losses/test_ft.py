"""FT: the distance of factors worked by hand and against torchdistill, and who learns from which term."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn
from torchdistill.losses.mid_level import FTLoss

from distill.errors import RecipeError
from distill.losses.ft import FactorTransfer, factor_distance
from distill.structures import FeatureShape


def ready(**arguments) -> FactorTransfer:
    loss = FactorTransfer(**arguments)
    loss.setup(info(layer4=FeatureShape(3, 4, 4)), info(layer4=FeatureShape(8, 2, 2)))
    return loss


def features(dtype: torch.dtype = torch.float32) -> tuple:
    return outputs(layer4=normal(5, 3, 4, 4, seed=1, dtype=dtype)), outputs(layer4=normal(5, 8, 2, 2, seed=2, dtype=dtype)), batch([0] * 5)


def test_factor_distance_by_hand():
    # (3, 4) and (4, 3) at length 1: |0.6 - 0.8| twice. (0, 5) and (2, 0): 1 and 1. Mean over 2 samples of 2 elements.
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([[4.0, 3.0], [2.0, 0.0]])
    assert factor_distance(student.view(2, 1, 1, 2), teacher.view(2, 1, 1, 2)).item() == pytest.approx((0.2 + 0.2 + 1 + 1) / 4, rel=1e-6)


def test_ft_by_hand():
    # One place, one channel, kernel 1: each convolution multiplies, and a leaky ReLU keeps what is positive.
    loss = FactorTransfer(rate=1.0, kernel_size=1, reconstruction_weight=0.5)
    shape = FeatureShape(1, 1, 2)
    loss.setup(info(layer4=shape), info(layer4=shape))
    with torch.no_grad():
        for name, parameter in loss.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 2.0 if "restorer.4" in name else 1.0)
    value = loss(outputs(layer4=torch.tensor([[[[3.0, 4.0]]]])), outputs(layer4=torch.tensor([[[[4.0, 3.0]]]])), batch([0]))
    # Restored: 8 and 6. The student's -5 and 12 become 0.001 of -5, three times a tenth.
    assert value.item() == pytest.approx((0.2 + 0.2) / 2 + 0.5 * (4.0**2 + 3.0**2) / 2, rel=1e-5)
    value = loss(outputs(layer4=torch.tensor([[[[-5.0, 12.0]]]])), outputs(layer4=torch.tensor([[[[0.0, 1.0]]]])), batch([0]))
    length = math.hypot(0.005, 12)
    assert value.item() == pytest.approx((0.005 / length + 1 - 12 / length) / 2 + 0.5 * (0 + 1) / 2, rel=1e-5)


def test_factor_distance_is_torchdistills_which_is_not_a_number_for_a_dead_factor():
    student, teacher = normal(4, 3, 2, 2, seed=1).requires_grad_(), normal(4, 3, 2, 2, seed=2)
    peer = FTLoss(p=1)
    value, other = factor_distance(student, teacher), peer({"translator": {"output": student}}, {"paraphraser": {"output": teacher}})
    assert value.item() == pytest.approx(other.item(), rel=1e-5)
    assert torch.allclose(*(torch.autograd.grad(one, student)[0] for one in (value, other)), atol=1e-6)
    dead = torch.zeros_like(teacher).requires_grad_()
    assert peer({"translator": {"output": dead}}, {"paraphraser": {"output": teacher}}).isnan()
    value = factor_distance(dead, teacher)
    value.backward()
    assert value.isfinite()
    assert dead.grad.isfinite().all()


def test_the_paraphraser_learns_from_its_own_map_alone_and_the_translator_from_the_factor():
    loss = ready()
    loss(*features()).backward()
    own = {name: parameter.grad.clone() for name, parameter in loss.named_parameters() if "translator" not in name}
    assert all(gradient.abs().sum() > 0 for gradient in own.values())
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in loss.named_parameters() if "translator" in name)
    loss.zero_grad()
    student, teacher, labels = features()
    loss(outputs(layer4=100 * student.features["layer4"] - 5), teacher, labels).backward()  # another student, the same teacher
    for name, parameter in loss.named_parameters():
        if name in own:
            assert torch.equal(parameter.grad, own[name]), name


def test_training_brings_both_terms_down():
    loss = ready(reconstruction_weight=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    student, teacher = features()[0].features["layer4"], features()[1].features["layer4"]
    before = [term.item() for term in loss.factors[0](student, teacher)]
    for _ in range(60):
        optimizer.zero_grad()
        loss(*features()).backward()
        optimizer.step()
    after = [term.item() for term in loss.factors[0](student, teacher)]
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.6 * before[1]


def test_widths_and_sizes():
    factors = ready(rate=0.4).factors[0]
    assert [layer.out_channels for layer in factors.paraphraser if isinstance(layer, nn.Conv2d)] == [8, 3, 3]
    assert [layer.out_channels for layer in factors.restorer if isinstance(layer, nn.ConvTranspose2d)] == [3, 8, 8]
    assert [layer.out_channels for layer in factors.translator if isinstance(layer, nn.Conv2d)] == [3, 3, 3]
    student, teacher = normal(2, 3, 4, 4, seed=1), normal(2, 8, 2, 2, seed=2)  # the student's larger map is pooled to the teacher's size
    pooled = student.view(2, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(factors(student, teacher), factors(pooled, teacher))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rate": 0}, "rate must be above 0, got 0"),
    ({"reconstruction_weight": -1}, "reconstruction_weight must be above 0, got -1"),
    ({"kernel_size": 2}, "kernel_size must be odd and above 0, such as 3, got 2"),
    ({"kernel_size": -1}, "kernel_size must be odd and above 0, such as 3, got -1"),
])  # fmt: skip
def test_ft_refuses_what_means_nothing(arguments, message):
    with pytest.raises(RecipeError, match=message):
        FactorTransfer(**arguments)


def test_ft_refuses_vectors():
    with pytest.raises(RecipeError, match="the student's 'pooled' is a vector"):
        FactorTransfer(layers=["pooled"]).setup(info(pooled=FeatureShape(4)), info(pooled=FeatureShape(4)))
