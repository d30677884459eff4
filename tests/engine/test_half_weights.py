"""Weights held in half precision: what autocast computes, without casting them anew."""

from __future__ import annotations

import pytest
import torch

from distill.engine.half_weights import hold_weights
from distill.engine.network import Network
from distill.models.zoo import create_model

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(name: str) -> Network:
    torch.manual_seed(0)
    model = create_model(name, num_classes=4, arguments={"img_size": 32} if "vit" in name else {})
    return Network(model, mean=(0.5,) * 3, std=(0.25,) * 3, layers=["pooled"], autocast_dtype=torch.bfloat16).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["resnet18", "timm/test_vit", "timm/test_efficientnet"])
@torch.no_grad()
def test_answers_are_autocasts_bit_for_bit(name):
    made = network(name)
    before, weights = made(IMAGES), {key: value.clone() for key, value in made.model.state_dict().items()}
    undo = hold_weights(made, torch.bfloat16)
    after, held = made(IMAGES), {key: value.dtype for key, value in made.model.state_dict().items()}
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.features["pooled"], before.features["pooled"])
    assert after.head.weight.dtype == torch.float32
    assert sum(dtype == torch.bfloat16 for dtype in held.values()) > 5
    assert all(dtype != torch.bfloat16 for key, dtype in held.items() if "bn" in key or "norm" in key)
    undo()
    assert all(
        torch.equal(made.model.state_dict()[key], value) and made.model.state_dict()[key].dtype == value.dtype for key, value in weights.items()
    )


class Casts(torch.utils._python_dispatch.TorchDispatchMode):
    num = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.num += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_no_weight_is_cast_in_a_forward():
    made, found = network("resnet18"), []
    for hold in (False, True):
        if hold:
            hold_weights(made, torch.bfloat16)
        with Casts() as casts:
            made(IMAGES)
        found.append(casts.num)
    assert found[0] - found[1] == 22  # of 20 convolutions, and of the classifier with its bias
