"""Trained modules of losses on features that may be half-precision, where autocast is off around the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)


def in_own_precision(module: nn.Module, feature: Tensor, *others: Tensor) -> Any:
    """[N, ...] -> [N, ...]: the module's answer in the feature's precision: half-precision features meet float32 parameters as autocast lets them."""
    if feature.dtype in _HALF and next(module.parameters(), feature).dtype != feature.dtype:
        with torch.autocast(feature.device.type, dtype=feature.dtype):
            return module(feature, *others)
    return module(feature, *others)
