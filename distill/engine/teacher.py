"""The teacher: frozen, in eval mode whatever its surroundings do, asked without gradient, and kept out of everything that is trained or saved."""

from __future__ import annotations

import functools
from typing import Protocol

import torch

from distill.engine.network import Network
from distill.models.weights import checksum
from distill.structures import Batch, Outputs


class Asked(Protocol):
    """What a training step asks: a live teacher, or its kept answers. The step can't tell them apart."""

    def __call__(self, batch: Batch) -> Outputs: ...


class Teacher:
    """A network that only answers. Not a Module, so that no `.train()`, optimizer, DDP or checkpoint can reach it."""

    def __init__(self, network: Network):
        self.network = network.eval().requires_grad_(False)
        self.answer = network  # what computes it: the network, or a compiled form of it
        self.form = "as given"  # what was done to the network since, that moves its answers in their last digits

    @functools.cached_property
    def checksum(self) -> str:
        """Of the weights as they were given; to be asked for before they are written in another form."""
        return checksum(self.network.model)

    @torch.no_grad()  # not inference_mode: autograd refuses to save inference tensors for the student's backward
    def __call__(self, batch: Batch) -> Outputs:
        return self.answer(batch.images)
