"""A memory with a row for every training picture: which rows belong to other classes, and how a row follows its picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses._unit import unit
from distill.losses.base import keyed_bits
from distill.structures import Batch, DataInfo


class OtherClasses(nn.Module):
    """Where each training picture's row is, and which rows belong to pictures of other classes."""

    row_of: Tensor  # [largest sample id + 1] int64
    classes: Tensor  # [M] int64, by row
    by_class: Tensor  # [M] int64, the rows in the order of their classes
    counts: Tensor  # [K] int64, pictures of each class
    first: Tensor  # [K] int64, where each class begins in by_class

    def __init__(self, data: DataInfo):
        """Raises RecipeError unless there are pictures of at least two classes."""
        super().__init__()
        counts = data.labels.bincount()
        self.num = len(data.labels)
        self.num_others = self.num - int(counts.max())  # every picture has at least as many of other classes
        if self.num_others == 0:
            raise RecipeError(f"this loss contrasts pictures of different classes, and all {self.num} training pictures have one class")
        row_of = torch.full((int(data.sample_ids.max()) + 1,), self.num)  # there is no such row, so that an unknown id stops the run
        row_of[data.sample_ids] = torch.arange(self.num)
        by_class = data.labels.argsort(stable=True)
        buffers = {"row_of": row_of, "classes": data.labels, "by_class": by_class, "counts": counts, "first": counts.cumsum(0) - counts}
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.clone(), persistent=False)

    def draw(self, rows: Tensor, batch: Batch, num: int, stream: int) -> Tensor:
        """[N] -> [N, num]: rows of pictures of other classes, with replacement, by sample and view.

        A place is drawn among the others; in the order by class it is moved past the own class, should it fall there or beyond.
        """
        own = self.classes[rows]
        first, count = self.first[own][:, None], self.counts[own][:, None]
        places = keyed_bits(batch.sample_ids, batch.view, num, stream) % (self.num - count)
        return self.by_class[places + count * (places >= first)]


def remember(bank: Tensor, rows: Tensor, embeddings: Tensor, momentum: float | Tensor) -> None:
    """Moves the bank's rows [N] towards embeddings [N, D] of length 1; a picture that is there twice, towards the mean of its embeddings."""
    is_same = rows[:, None] == rows[None]
    mean = is_same.to(embeddings.dtype) @ embeddings / is_same.sum(dim=1, keepdim=True)
    moved = unit(momentum * bank[rows] + (1 - momentum) * mean)
    bank.index_copy_(0, rows, moved[is_same.int().argmax(dim=1)].to(bank.dtype))  # the first of equal ones: the same bits, whichever is written last
