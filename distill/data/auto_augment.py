"""TrivialAugment and RandAugment: one picture, changed by operations that its row of random numbers picks. In worker processes only: each picture
goes through operations of its own, one at a time.

Sources: Mueller, Hutter, 2021, arXiv 2103.10158 (TrivialAugment, wide ranges); Cubuk, Zoph, Shlens, Le, 2019, arXiv 1909.13719 (RandAugment). The
operations are torchvision's, and so are their ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

_NUM_BINS = 31  # strengths that an operation can have
_COLUMNS_AN_OPERATION = 3  # which, how strong, in which direction
MAX_OPERATIONS = 5  # so many fit into the block


def trivial_augment(image: Tensor, row: np.ndarray, fill: Sequence[int]) -> Tensor:
    """[3, H, W] uint8 -> the same shape: one operation, of any strength."""
    operation, strength, direction = row[:_COLUMNS_AN_OPERATION]
    return _apply(image, operation, int(strength * _NUM_BINS), direction, fill, _WIDE)


def rand_augment(image: Tensor, row: np.ndarray, fill: Sequence[int], *, num_ops: int, magnitude: int) -> Tensor:
    """[3, H, W] uint8 -> the same shape: `num_ops` operations one after the other, all of the strength `magnitude` out of 0 to 30."""
    for number in range(num_ops):
        operation, _, direction = row[number * _COLUMNS_AN_OPERATION : (number + 1) * _COLUMNS_AN_OPERATION]
        image = _apply(image, operation, magnitude, direction, fill, _NARROW)
    return image


# How far the strongest of each operation goes: shear, pixels (a share of the side where below 1), degrees, share of a blend, bits taken away.
_WIDE = {"shear": 0.99, "translate": 32.0, "rotate": 135.0, "blend": 0.99, "bits": 6.0}
_NARROW = {"shear": 0.3, "translate": 150.0 / 331.0, "rotate": 30.0, "blend": 0.9, "bits": 4.0}


def _apply(image: Tensor, operation: float, strength: int, direction: float, fill: Sequence[int], reach: dict[str, float]) -> Tensor:
    share, sign = strength / (_NUM_BINS - 1), 1.0 if direction < 0.5 else -1.0
    return _OPERATIONS[int(operation * len(_OPERATIONS))](image, share, sign, list(fill), reach)


def _affine(image: Tensor, fill: list[int], *, translate: Sequence[float] = (0, 0), shear: Sequence[float] = (0, 0)) -> Tensor:
    return F.affine(image, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), fill=fill, center=[0.0, 0.0])


def _sheared(axis: int) -> Callable:
    def shear(image: Tensor, share: float, sign: float, fill: list[int], reach: dict[str, float]) -> Tensor:
        angle = math.degrees(math.atan(sign * share * reach["shear"]))
        return _affine(image, fill, shear=[angle, 0.0] if axis == 0 else [0.0, angle])

    return shear


def _translated(axis: int) -> Callable:
    def translate(image: Tensor, share: float, sign: float, fill: list[int], reach: dict[str, float]) -> Tensor:
        side = image.shape[-1 - axis] if reach["translate"] < 1 else 1
        pixels = int(sign * share * reach["translate"] * side)
        return _affine(image, fill, translate=[pixels, 0] if axis == 0 else [0, pixels])

    return translate


def _rotate(image: Tensor, share: float, sign: float, fill: list[int], reach: dict[str, float]) -> Tensor:
    return F.rotate(image, sign * share * reach["rotate"], fill=fill)


def _blended(adjust: Callable[[Tensor, float], Tensor]) -> Callable:
    return lambda image, share, sign, fill, reach: adjust(image, 1.0 + sign * share * reach["blend"])


_OPERATIONS: tuple[Callable[[Tensor, float, float, list[int], dict[str, float]], Tensor], ...] = (
    lambda image, share, sign, fill, reach: image,
    _sheared(0),
    _sheared(1),
    _translated(0),
    _translated(1),
    _rotate,
    _blended(F.adjust_brightness),
    _blended(F.adjust_saturation),
    _blended(F.adjust_contrast),
    _blended(F.adjust_sharpness),
    lambda image, share, sign, fill, reach: F.posterize(image, 8 - round(share * reach["bits"])),
    lambda image, share, sign, fill, reach: F.solarize(image, round(255.0 * (1 - share), 1)),  # 68.00000000000001 would pass over 68
    lambda image, share, sign, fill, reach: F.autocontrast(image),
    lambda image, share, sign, fill, reach: F.equalize(image),
)
