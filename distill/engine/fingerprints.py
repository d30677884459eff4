"""64-bit numbers that tell pictures and rows of bytes apart, computed alike on every device and by NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from distill.losses._keyed import _mix

_STREAM = 0x5EED_0F_4A5  # of the multipliers, apart from every other use of Philox


@cache
def _multipliers(num: int) -> np.ndarray:
    """[num] uint64, odd: then a changed bit always changes the sum."""
    return np.random.Philox(key=np.array([_STREAM, 0], dtype=np.uint64)).random_raw(num) | np.uint64(1)


@cache
def _on_device(num: int, device: torch.device) -> Tensor:
    return torch.from_numpy(_multipliers(num).view(np.int64)).to(device)


def hash_pictures(images: Tensor) -> Tensor:
    """[n, 3, H, W] uint8 -> [n] int64 on the same device: a sum that wraps around, so its order does not matter."""
    rows = images.reshape(len(images), -1)
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8)) if rows.shape[1] % 8 or rows.storage_offset() % 8 else rows.contiguous()
    words = rows.view(torch.int64)
    # each word by itself first: else a word's upper bits move only the sum's upper bits, and two changes there would often cancel
    return _mix(_mix(words ^ _on_device(words.shape[1], words.device)).sum(dim=1))


def seal(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """[n, bytes] uint8 and [n] int64 -> [n, 3] uint8: 24 bits over both, never all zero, by which a row that is damaged or half-written is known."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : rows.shape[1]] = rows
    words = np.concatenate([padded.view(np.uint64), hashes.view(np.uint64)[:, None]], axis=1)
    first, second = _multipliers(2 * words.shape[1]).reshape(2, -1)
    products = words * first
    products ^= products >> np.uint64(32)  # else a word's upper bits would move only the sum's upper bits, and two changes there often cancel
    total = (products * second).sum(axis=1, dtype=np.uint64)
    bits = (total ^ (total >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    bits = bits >> np.uint64(40)
    bits = np.where(bits == 0, 1, bits).astype("<u4")
    return bits[:, None].view(np.uint8)[:, :3]
