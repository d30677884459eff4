"""Mixup and cutmix: two pictures in one, with the shares of both in the label. Who is mixed with whom, and how, belongs to the view of the sample,
so it does not depend on who else is in a batch.

Sources: Zhang, Cisse, Dauphin, Lopez-Paz, 2017, arXiv 1710.09412 (mixup); Yun, Han, Oh, Chun, Choe, Yoo, 2019, arXiv 1905.04899 (cutmix).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from distill.data.erasing import inside_boxes

_WHETHER, _WHICH, _SHARE, _TOP, _LEFT, _PARTNER = 0, 1, 2, 3, 4, 5  # columns of the mixing block
_LEAST_ALPHA = 1e-12  # all shares are 0 or 1 there; below it scipy's inverse gave NaN up to 1.16
_ONE = 4096  # fixed-point one of a share: 255 * 4096 < 2**24, so float32 blends exactly


@dataclass(frozen=True)
class Mixing:
    """mixup, cutmix: the alpha of the Beta distribution that shares come from; 0 for none, and where both are given each has half of the pictures.
    probability: the share of the pictures that is mixed at all."""

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def decide(self, rows: np.ndarray, size: int) -> MixPlan:
        """rows [N, columns] of the mixing block -> how each picture of this size is mixed with its partner."""
        uses_cutmix = rows[:, _WHICH] < (0.5 if self.mixup else 1.0) * (self.cutmix > 0)
        alphas = np.maximum(np.where(uses_cutmix, self.cutmix or 1.0, self.mixup or 1.0), _LEAST_ALPHA)
        share = betaincinv(alphas, alphas, rows[:, _SHARE])
        own = np.where(uses_cutmix, 0, np.rint(share * _ONE)).astype(np.int64)
        boxes = np.where(uses_cutmix[:, None], _cut_boxes(share, rows[:, [_TOP, _LEFT]], size), np.array([[0, 0, size, size]]))
        boxes[rows[:, _WHETHER] >= self.probability] = 0
        return MixPlan(boxes, own, size)


@dataclass(frozen=True)
class MixPlan:
    """boxes [N, 4] int64: where the partner is seen (top, left, height, width). own [N] int64: how much of the picture itself is left there, in
    4096ths."""

    boxes: np.ndarray
    own: np.ndarray
    size: int

    def pictures(self, images: Tensor, partners: Tensor) -> Tensor:
        """[N, 3, size, size] uint8 twice -> [N, 3, size, size] uint8, to the same bytes in any batch and on any device."""
        left = torch.from_numpy(_ONE - self.own).to(images.device, torch.float32).view(-1, 1, 1, 1)
        left = left * inside_boxes(self.boxes, self.size, self.size, images.device)  # [N, 1, S, S] the partner's share at each place
        return (images * (_ONE - left) + partners * left).div_(_ONE).round_().to(torch.uint8)

    def labels(self, labels: np.ndarray, partners: np.ndarray, num_classes: int) -> np.ndarray:
        """[N] int64 twice -> [N, num_classes] float32: the share of each class in the picture, exactly."""
        theirs = self.boxes[:, 2] * self.boxes[:, 3] / self.size**2 * (1 - self.own / _ONE)
        shares, each = np.zeros((len(labels), num_classes), dtype=np.float32), np.arange(len(labels))
        np.add.at(shares, (each, labels), 1 - theirs)
        np.add.at(shares, (each, partners), theirs)
        return shares


def partners(table: np.ndarray) -> np.ndarray:
    """[M, columns] of the mixing block, all samples of a part -> [M] int64: the position of each one's partner, everybody being somebody's."""
    return np.argsort(table[:, _PARTNER], kind="stable")


def _cut_boxes(share: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """A square of 1 - share of the area around a place anywhere in the picture, cut where it sticks out."""
    side = (size * np.sqrt(1 - share)).astype(np.int64)[:, None]  # [N, 1]
    first = (place * size).astype(np.int64) - side // 2  # [N, 2] top, left
    start, end = np.clip(first, 0, size), np.clip(first + side, 0, size)
    return np.concatenate([start, end - start], axis=1)
