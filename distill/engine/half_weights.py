"""A frozen network's weights in the precision that it computes in. In place, so that its names and hooks stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distill.engine.network import Network
from distill.models.zoo import head_path

_CAST_BY_AUTOCAST = (nn.modules.conv._ConvNd, nn.Linear)


def hold_weights(network: Network, dtype: torch.dtype) -> Callable[[], None]:
    """Holds the weights of convolutions and linear layers as autocast would cast them anew in every forward: the same answers, bit for bit.

    Losses are given the classifier in its own precision, as before. Returns what undoes it.
    """
    head = head_path(network.model)
    if head is not None:
        classifier: Any = network.model.get_submodule(head)
        network.fixed_head = network.head(torch.empty(0, classifier.out_features))
    held = [
        (module, name, parameter)
        for module in network.model.modules()
        if isinstance(module, _CAST_BY_AUTOCAST)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dtype == torch.float32
    ]
    for module, name, parameter in held:
        setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))

    def undo() -> None:
        network.fixed_head = None
        for module, name, parameter in held:
            setattr(module, name, parameter)

    return undo
