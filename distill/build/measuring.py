"""What a network is like for the losses: its shapes, its classes, where its features come from. For a recipe's networks and for anybody's own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from distill.engine.network import Network
from distill.errors import RecipeError
from distill.losses.base import DistillLoss
from distill.models.hooks import FeatureHooks, measure_shapes
from distill.models.zoo import describe
from distill.structures import Head, ModelInfo


def require_layers(model: nn.Module, losses: Mapping[str, DistillLoss], aliases: Mapping[str, str], who: str) -> None:
    """Raises RecipeError that names the loss which asks for a feature that the network does not have. who: "student resnet18"."""
    for label, loss in losses.items():  # one by one, so that the message can name the loss
        try:
            FeatureHooks(model, loss.layers, aliases).remove()
        except RecipeError as error:
            raise RecipeError(f"losses.{label}: {who}: {error}") from error


def measure(network: Network, name: str, image_size: int, num_classes: int | None = None) -> ModelInfo:
    """What the losses may know of a network that is shown pictures of this size. num_classes: None for as many as it answers with.

    Modes and buffers stay as they are. Raises RecipeError if it can't take such pictures, or does not answer with logits.
    """
    answers: list[object] = []
    handle = network.model.register_forward_hook(lambda module, inputs, answer: answers.append(answer))
    try:
        shapes = measure_shapes(network.model, network.hooks, network.image_size or image_size)
    finally:
        handle.remove()
    num_classes = num_classes or _num_classes(answers[-1], name)
    info = describe(network.model, name, shapes, num_classes, network.hooks.stages)
    return dataclasses.replace(info, not_pooled=_not_pooled(network, image_size))


def _num_classes(answer: object, name: str) -> int:
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        kind = f"a tensor {list(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise RecipeError(f"{name} must answer with logits, a tensor [N, K], and gives {kind}; wrap it in a module whose forward returns its logits")
    return answer.shape[1]


@torch.no_grad()
def _not_pooled(network: Network, image_size: int) -> frozenset[str]:
    """The maps whose mean, given to the classifier, does not give the logits; tried on two random pictures."""
    pictures = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = pictures.to(network.mean.device)
    with _in_eval_mode(network):
        outputs = network(pictures / 127.5 - 1 if network.takes_normalised else pictures)
    maps = {name: feature.to(outputs.logits.dtype).mean(dim=(2, 3)) for name, feature in outputs.features.items() if feature.ndim == 4}
    return frozenset(name for name, pooled in maps.items() if not _gives(outputs.logits, pooled, outputs.head))


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Afterwards each part is in the mode that it was in: a frozen one may be in eval mode inside a network in train mode."""
    was_training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in was_training.items():
            module.training = mode


def _gives(logits: Tensor, pooled: Tensor, head: Head | None) -> bool:
    if head is None or head.weight.shape[1] != pooled.shape[1]:
        return False
    bias = None if head.bias is None else head.bias.to(logits.dtype)
    tolerance = 0.1 * logits.std().item() + 1e-6  # half precision is nearer than that, another input of the classifier is not
    return (linear(pooled, head.weight.to(logits.dtype), bias) - logits).abs().max().item() < tolerance
