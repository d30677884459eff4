"""The teacher: frozen, in eval mode whatever its surroundings do, asked without gradient, and kept out of everything that is trained or saved."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from distill.engine.network import Network
from distill.models.weights import checksum
from distill.structures import Batch, HostKeys, Outputs

_MOST_PIXELS = 64 * 224**2  # asked for together: more in one call is not faster, and a batch is accumulated in parts to save memory


class Asked(Protocol):
    """What a training step asks: a live teacher, or its kept answers. The step can't tell them apart."""

    def __call__(self, batch: Batch) -> Outputs: ...


class Teacher:
    """A network that only answers. Not a Module, so that no `.train()`, optimizer, DDP or checkpoint can reach it."""

    def __init__(self, network: Network):
        self.network = network.eval().requires_grad_(False)
        self.answer: Callable[[Tensor], Outputs] = network  # what computes it: the network, or a compiled form of it
        self.form = "as given"  # what was done to the network since, that moves its answers in their last digits

    @functools.cached_property
    def checksum(self) -> str:
        """Of the weights as they were given; to be asked for before they are written in another form."""
        return checksum(self.network.model)

    def __call__(self, batch: Batch) -> Outputs:
        with torch.no_grad():  # not inference_mode: autograd refuses to save inference tensors for the student's backward
            return self.answer(batch.images)


def part_of(batch: Batch, index: Tensor, positions: np.ndarray) -> Batch:
    """Some pictures of a batch; index [n] and positions [n] int64 are the same places, on the device and on the host."""
    host = None if batch.host is None else batch.host._replace(sample_ids=batch.host.sample_ids[positions])
    images, labels, sample_ids, view = (tensor[index] for tensor in batch.tensors)
    return Batch(images, labels, sample_ids, view, host)


def parts_together(num_parts: int, images: Tensor) -> int:
    """How many of a step's parts, with so many pictures [N, 3, H, W] each, the teacher is asked for in one call."""
    num_pictures, _, height, width = images.shape
    return max(1, min(num_parts, _MOST_PIXELS // (num_pictures * height * width)))


def with_answers(batches: Iterable[Batch], teacher: Asked | None, num_parts: int) -> Iterator[tuple[Batch, Outputs | None]]:
    """Each batch with the teacher's answers. Batches that are `num_parts` of one step are asked for in one call, or, where they are large, in few."""
    batches = iter(batches)
    while parts := list(itertools.islice(batches, num_parts)):
        if teacher is None:
            yield from ((part, None) for part in parts)
            continue
        together = parts_together(len(parts), parts[0].images)
        for start in range(0, len(parts), together):
            group = parts[start : start + together]
            yield from zip(group, _ask_together(teacher, group), strict=True)


def _ask_together(teacher: Asked, parts: Sequence[Batch]) -> list[Outputs]:
    if len(parts) == 1:
        return [teacher(parts[0])]
    hosts = [part.host for part in parts if part.host is not None]  # a batch of a loader has it
    host = HostKeys(np.concatenate([one.sample_ids for one in hosts]), hosts[0].view, sum(one.num_replaced for one in hosts))
    images, labels, sample_ids, view = map(torch.cat, zip(*(part.tensors for part in parts), strict=True))
    answers = teacher(Batch(images, labels, sample_ids, view, host))
    sizes = [len(part.images) for part in parts]
    features = {name: feature.split(sizes) for name, feature in answers.features.items()}
    return [
        Outputs(logits, {name: pieces[number] for name, pieces in features.items()}, answers.head)
        for number, logits in enumerate(answers.logits.split(sizes))
    ]
