"""How a teacher's answers are kept: rows of bytes, and back.

Logits are kept and never probabilities at a temperature, so that every temperature can be had from them. Full precision loses nothing, bfloat16
nothing where the teacher's last layer computes in it; `int8` and `topk` are for many classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """One tensor of a kept answer, a row for each picture."""

    dtype: torch.dtype
    shape: tuple[int, ...]  # of one row

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class LogitFormat(Protocol):
    """Turns logits into columns and back."""

    has_all_logits: bool  # False: only the largest, and the sum of the others

    def columns(self) -> dict[str, Column]: ...

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """[n, K] float -> each column's tensor [n, ...]"""
        ...

    def decode(self, kept: Mapping[str, Tensor]) -> Tensor:
        """The reverse: [n, K] float32 (float64 from float64)."""
        ...


@dataclass(frozen=True)
class Full:
    """Every logit, in this precision."""

    num_classes: int
    dtype: torch.dtype
    has_all_logits = True

    def columns(self) -> dict[str, Column]:
        return {"logits": Column(self.dtype, (self.num_classes,))}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        return {"logits": logits.to(self.dtype)}

    def decode(self, kept: Mapping[str, Tensor]) -> Tensor:
        return kept["logits"].to(torch.promote_types(self.dtype, torch.float32))


@dataclass(frozen=True)
class Int8:
    """Every logit in 256 equal steps between the row's lowest and highest."""

    num_classes: int
    has_all_logits = True

    def columns(self) -> dict[str, Column]:
        scalar = Column(torch.float32, (1,))
        return {"codes": Column(torch.uint8, (self.num_classes,)), "lowest": scalar, "step": scalar}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        logits = logits.float()
        lowest = logits.amin(dim=1, keepdim=True)
        step = (logits.amax(dim=1, keepdim=True) - lowest) / 255
        codes = ((logits - lowest) / torch.where(step > 0, step, 1.0)).round_().clamp_(0, 255)
        return {"codes": codes.to(torch.uint8), "lowest": lowest, "step": step}

    def decode(self, kept: Mapping[str, Tensor]) -> Tensor:
        return kept["lowest"] + kept["codes"].float() * kept["step"]


@dataclass(frozen=True)
class TopK:
    """The largest k logits, in 256 equal steps of their logarithm, and how much probability all others have together, which they share evenly.

    That is harmless where little is left for them: at low temperatures, and for losses that look at probabilities.
    """

    num_classes: int
    k: int
    has_all_logits = False

    def columns(self) -> dict[str, Column]:
        index = torch.uint8 if self.num_classes <= 256 else torch.uint16 if self.num_classes <= 1 << 16 else torch.int32
        scalar = Column(torch.float32, (1,))
        return {"classes": Column(index, (self.k,)), "codes": Column(torch.uint8, (self.k,)), "step": scalar, "tail": scalar}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        values, classes = logits.float().topk(self.k, dim=1)
        below = values[:, :1] - values  # [n, k] how far below the largest
        step = below[:, -1:] / 255
        codes = (below / torch.where(step > 0, step, 1.0)).round_().clamp_(0, 255)
        others = (logits.float() - values[:, :1]).scatter(1, classes, -torch.inf)
        tail = others.logsumexp(dim=1, keepdim=True)  # log of the others' sum, the largest being 1
        return {"classes": classes.to(self.columns()["classes"].dtype), "codes": codes.to(torch.uint8), "step": step, "tail": tail}

    def decode(self, kept: Mapping[str, Tensor]) -> Tensor:
        values = -kept["codes"].float() * kept["step"]  # the largest is 0
        num_others = self.num_classes - self.k
        spread = kept["tail"] - torch.log(torch.tensor(float(num_others))) if num_others else kept["tail"]
        logits = spread.expand(-1, self.num_classes).clone()
        logits.scatter_(1, kept["classes"].to(torch.int64), values)
        return logits.log_softmax(dim=1)


def logit_format(name: str, num_classes: int, *, top_k: int = 16) -> LogitFormat:
    """name: fp64, fp32, bf16, int8 or topk."""
    if name == "topk":
        return TopK(num_classes, min(top_k, num_classes))
    if name == "int8":
        return Int8(num_classes)
    return Full(num_classes, {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}[name])


def pack(tensors: Mapping[str, Tensor], columns: Mapping[str, Column]) -> Tensor:
    """Each column's tensor [n, ...] -> [n, bytes of a row] uint8 on the same device."""
    return torch.cat([tensors[name].to(column.dtype).contiguous().flatten(1).view(torch.uint8) for name, column in columns.items()], dim=1)


def unpack(rows: Tensor, columns: Mapping[str, Column]) -> dict[str, Tensor]:
    """The reverse."""
    parts = rows.split([column.num_bytes for column in columns.values()], dim=1)
    # copies, because a part may begin where its dtype may not
    return {
        name: part.clone(memory_format=torch.contiguous_format).flatten().view(column.dtype).view(len(rows), *column.shape)
        for part, (name, column) in zip(parts, columns.items(), strict=True)
    }
