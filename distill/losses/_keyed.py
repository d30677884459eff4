"""Random numbers for losses as a pure function of sample and view: the same on any number of processes, in any order, after any restart."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # those of splitmix64 (Steele, Lea, Flood, 2014), as signed numbers
_STEP = -0x61C8864680B583EB


def _shift(bits: Tensor, places: int) -> Tensor:
    """The bits moved right, zeros moving in: torch's own >> copies the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """splitmix64's finaliser; int64 products wrap around, on every device."""
    bits = (bits ^ _shift(bits, 30)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift(bits, 27)) * _MULTIPLIERS[1]
    return bits ^ _shift(bits, 31)


def keyed_bits(sample_ids: Tensor, view: Tensor, num: int, stream: int = 0) -> Tensor:
    """[N] int64 and [N] int64 -> [N, num] int64, uniform over 0 .. 2^53 - 1. Another `stream` gives other numbers."""
    rows = _mix(_mix(sample_ids * _STEP + stream) + view * _STEP)
    columns = torch.arange(1, num + 1, device=rows.device) * _STEP
    return _shift(_mix(rows[:, None] + columns), 11)


def keyed_uniform(sample_ids: Tensor, view: Tensor, num: int, stream: int = 0) -> Tensor:
    """[N] int64 and [N] int64 -> [N, num] float32 in [0, 1)."""
    return _shift(keyed_bits(sample_ids, view, num, stream), 29).to(torch.float32) * 2.0**-24  # 24 bits are exact in float32, so never 1
