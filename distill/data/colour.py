"""Colour jitter for a batch of pictures, each by its own factors, to the same bytes in any batch and on any device.

Brightness, contrast and saturation blend in fixed point, and hue turns in float32, each step of which IEEE 754 fixes to the bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ONE = 4096  # fixed-point one of a factor: 255 * 2 * 4096 < 2**24, exact in float32
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0, 1, 2, 3  # columns of the colour block


def jitter(images: Tensor, rows: np.ndarray, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0) -> Tensor:
    """[N, 3, H, W] uint8 -> the same shape. The factors lie within 1 +- brightness and so on, the turn of the hue within +- hue of the circle.

    As torchvision's ColorJitter, but always in the order of the arguments, where torchvision draws the order too.
    """
    pixels = images.float()
    if brightness:
        pixels = _blend(pixels, torch.zeros((), device=images.device), _factors(rows[:, _BRIGHTNESS], brightness, images.device))
    if contrast:
        pixels = _blend(pixels, _mean_grey(pixels), _factors(rows[:, _CONTRAST], contrast, images.device))
    if saturation:
        pixels = _blend(pixels, _grey(pixels).float(), _factors(rows[:, _SATURATION], saturation, images.device))
    if hue:
        turns = np.rint((2 * rows[:, _HUE] - 1) * hue * _ONE) / _ONE
        pixels = _turn_hue(pixels, torch.from_numpy(turns).to(images.device, torch.float32).view(-1, 1, 1))
    return pixels.to(torch.uint8)


def _factors(uniform: np.ndarray, spread: float, device: torch.device) -> Tensor:
    """[N, 1, 1, 1] float32, whole multiples of 1 / _ONE times _ONE."""
    factors = np.rint(np.maximum(0.0, 1 + (2 * uniform - 1) * spread) * _ONE)
    return torch.from_numpy(factors).to(device, torch.float32).view(-1, 1, 1, 1)


def _blend(pixels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return (pixels * factors + other * (_ONE - factors)).div_(_ONE).round_().clamp_(0, 255)


def _grey(pixels: Tensor) -> Tensor:
    """[N, 3, H, W] of whole numbers -> [N, 1, H, W] int32: ITU-R 601-2 luma, in the fixed point that Pillow documents."""
    red, green, blue = pixels.to(torch.int32).unbind(dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).unsqueeze(1)


def _mean_grey(pixels: Tensor) -> Tensor:
    """[N, 1, 1, 1] float32: each picture's mean luma, a whole number."""
    grey = _grey(pixels).flatten(1)
    num = grey.shape[1]
    return ((2 * grey.sum(dim=1, dtype=torch.int64) + num) // (2 * num)).float().view(-1, 1, 1, 1)


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Hue, saturation and value of each pixel, the hue moved by `turns` [N, 1, 1] of the circle, and back to whole red, green and blue."""
    red, green, blue = pixels.unbind(dim=1)  # [N, H, W]
    value, chroma = pixels.amax(dim=1), pixels.amax(dim=1) - pixels.amin(dim=1)
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        value == red, (green - blue) / safe, torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )  # 0 to 6, or a little below 0
    sixths = sixths + 6 * turns
    channels = []
    for offset in (5.0, 3.0, 1.0):  # the hexagon: how much of the chroma is missing in red, green, blue
        place = torch.remainder(sixths + offset, 6.0)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1).round_().clamp_(0, 255)
