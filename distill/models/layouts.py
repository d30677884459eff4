"""How networks lay out their features, and the one layout that losses see: maps [N, C, H, W] and vectors [N, D]."""

from __future__ import annotations

import math

from torch import Tensor, nn

_USUAL_PREFIXES = (0, 1, 2, 5)  # none; a class token; that and one for distillation; that and four registers


def as_map_or_vector(feature: Tensor, num_prefix_tokens: int | None = None) -> Tensor:
    """Maps [N, C, H, W] and vectors as they are; channels-last maps [N, H, W, C] and tokens [N, L, D] as maps, without a copy. Square pictures only.

    Of tokens those before the grid, such as a class token, are left out: what the network decides by is "pooled". num_prefix_tokens: how many; None
    for a network that does not say. Tokens that make no square grid stay as they are.
    """
    if feature.ndim == 4:
        height, width, channels = feature.shape[1:]
        return feature.permute(0, 3, 1, 2) if height == width != channels else feature
    if feature.ndim == 3 and (side := token_grid(feature.shape[1], num_prefix_tokens)):
        return feature[:, -(side * side) :].transpose(1, 2).unflatten(2, (side, side))
    return feature


def token_grid(num_tokens: int, num_prefix_tokens: int | None = None) -> int:
    """Places a side of the grid that these tokens are on; 0 if they can't be on a square one."""
    said = () if num_prefix_tokens is None else (num_prefix_tokens,)  # not always so: some add their class token only behind the stages
    for num_before in (*said, *_USUAL_PREFIXES):
        side = math.isqrt(max(num_tokens - num_before, 0))
        if side and side**2 == num_tokens - num_before:
            return side
    return 0


def num_prefix_tokens(model: nn.Module) -> int | None:
    """What a network of timm says of itself, and torchvision's transformers show; None for others."""
    number = getattr(model, "num_prefix_tokens", None)
    return number if isinstance(number, int) else 1 if hasattr(model, "class_token") else None
