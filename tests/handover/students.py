"""Small networks of several families, and one that a few seconds have taught something, for the tests of the files that are handed over."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from distill.data.sources.sample import Sample
from distill.models.blocks import BasicBlock
from distill.models.resnet import ResNet
from distill.models.zoo import create_model

SIZE = 32
FAMILIES = {
    "resnet18": {"stem": "small"},
    "torchvision/resnet18": {},
    "timm/mobilenetv3_small_050": {},
    "timm/vit_tiny_patch16_224": {"arguments": {"img_size": SIZE, "depth": 2}},
}


@functools.cache
def family(name: str) -> nn.Module:
    """A network with random weights and with the statistics of random pictures in its batch norms, in eval mode."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **FAMILIES[name])
    with torch.no_grad():
        for _ in range(3):
            model(pictures(16))
    return model.eval()


def pictures(count: int, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@functools.cache
def sample() -> tuple[Tensor, Tensor]:
    """Normalised pictures and their labels: 512 and 1,500 of the sample's training pictures are enough to calibrate, and to learn something from."""
    source = Sample(root=None, image_size=None, val_fraction=0.1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (source.mean, source.std))
    return (source.train.pixels[:3000] / 255 - mean) / std, torch.from_numpy(source.train.labels[:3000])


@functools.cache
def trained() -> nn.Module:
    """A ResNet with one block a stage after 2,000 of the pictures, in eval mode."""
    torch.manual_seed(0)
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10)
    images, labels = sample()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for batch, wanted in zip(images[:2000].split(50), labels[:2000].split(50), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), wanted).backward()
        optimizer.step()
    return model.eval()


def state(model: nn.Module) -> dict[str, object]:
    """All of a network that writing a file must leave as it is."""
    found: dict[str, object] = {name: (tensor.clone(), tensor.dtype) for name, tensor in model.state_dict(keep_vars=True).items()}
    found |= {f"{name}.requires_grad": one.requires_grad for name, one in model.named_parameters()}
    return found | {f"{name} module": (one.training, type(one), len(one._forward_hooks), sorted(vars(one))) for name, one in model.named_modules()}


def assert_equal_states(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value[0] if isinstance(value, tuple) else None, Tensor):
            assert torch.equal(value[0], other[name][0]), name
            assert value[1] == other[name][1], name
        else:
            assert value == other[name], name
