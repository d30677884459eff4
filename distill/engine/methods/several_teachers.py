"""Several teachers that answer as one: the mean of their logits, or one of them, drawn for each view of each picture."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.engine.teacher import Asked, Teacher, part_of
from distill.losses._keyed import keyed_uniform
from distill.structures import Batch, Outputs

_STREAM = 0x7EAC_4E25  # of the draws, apart from the numbers that losses draw


class SeveralTeachers:
    """The same call as one teacher. Only logits can be combined: the answers have neither features nor a classifier.

    The mean is that of the logits, sum_i a_i z_i. At every temperature T, softmax of it is the geometric mean of what the teachers say at T, brought
    to sum 1: a loss may soften it as it likes, and gets what it would get by softening each teacher. The arithmetic mean of probabilities has no such
    logits: it would be right at one temperature only. Both means are named in Hinton, Vinyals, Dean, 2015, arXiv 1503.02531, section 1.

    Drawn answers: teacher i with probability a_i, as a pure function of (seed, sample, view), so that a run that is gone on with, and any number of
    processes, see the same ones. Each teacher is asked for its own pictures only.
    """

    def __init__(self, teachers: Sequence[Teacher], shares: Sequence[float], *, is_sampled: bool = False, seed: int = 0):
        """shares: 1 in all."""
        self.teachers, self.shares, self.is_sampled, self.seed = list(teachers), list(shares), is_sampled, seed
        self.asked: Sequence[Asked] = self.teachers

    def asking(self, asked: Sequence[Asked]) -> SeveralTeachers:
        """The same, but with something else asked in place of each teacher, such as its kept answers."""
        other = SeveralTeachers(self.teachers, self.shares, is_sampled=self.is_sampled, seed=self.seed)
        other.asked = asked
        return other

    @property
    def checksum(self) -> str:
        """Of the weights of all of them as they were given."""
        return hashlib.sha256(" ".join(teacher.checksum for teacher in self.teachers).encode()).hexdigest()

    @property
    def form(self) -> str:
        """What was done to them since they were given."""
        return "; ".join(dict.fromkeys(teacher.form for teacher in self.teachers))

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(self._drawn(batch) if self.is_sampled else _weighted((ask(batch).logits for ask in self.asked), self.shares), {})

    def _drawn(self, batch: Batch) -> Tensor:
        """[N, K], each row of one teacher."""
        chosen, logits = self.choose(batch), None
        for number in np.unique(chosen):
            positions = np.flatnonzero(chosen == number)
            rows = torch.from_numpy(positions).to(batch.images.device)
            part = batch if len(positions) == len(chosen) else part_of(batch, rows, positions)
            answered = self.asked[number](part).logits
            logits = answered.new_empty(len(chosen), answered.shape[1]) if logits is None else logits
            logits.index_copy_(0, rows, answered)
        return logits

    def choose(self, batch: Batch) -> np.ndarray:
        """[N] int64, which teacher answers for each picture; found in the memory of the host, so that no device is waited for."""
        if batch.host is None:
            sample_ids, view = batch.sample_ids.cpu(), batch.view.cpu()
        else:
            sample_ids = torch.from_numpy(batch.host.sample_ids)
            view = torch.full_like(sample_ids, batch.host.view)
        drawn = keyed_uniform(sample_ids, view, 1, stream=self.seed ^ _STREAM)[:, 0].double()
        ends = torch.tensor(list(itertools.accumulate(self.shares))[:-1], dtype=torch.float64)
        return torch.searchsorted(ends, drawn, right=True).numpy()


class Together:
    """For scoring: what several networks answer as one for pictures. Of drawn answers, the mean of the probabilities: what a student is told of a
    picture on average."""

    def __init__(self, networks: Sequence[Callable[[Tensor], Outputs]], shares: Sequence[float], *, is_sampled: bool = False):
        self.networks, self.shares, self.is_sampled = networks, shares, is_sampled

    def __call__(self, images: Tensor) -> Outputs:
        answers = [network(images).logits for network in self.networks]
        return Outputs(_mixed(answers, self.shares) if self.is_sampled else _weighted(answers, self.shares), {})


class Remembered:
    """A network that does not compute again what it has answered last: it is scored alone, and among others."""

    def __init__(self, network: Callable[[Tensor], Outputs]):
        self.network = network
        self._images: Tensor | None = None
        self._outputs: Outputs | None = None

    def __call__(self, images: Tensor) -> Outputs:
        if images is not self._images:
            self._images, self._outputs = images, self.network(images)
        return self._outputs


def _weighted(answers: Iterable[Tensor], shares: Sequence[float]) -> Tensor:
    total = None
    for logits, share in zip(answers, shares, strict=True):
        total = share * logits if total is None else total + share * logits
    return total


def _mixed(answers: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """[N, K]: logarithms of the mean of the probabilities."""
    weights = torch.tensor(shares, dtype=answers[0].dtype, device=answers[0].device).log()
    return torch.stack([logits.log_softmax(dim=1) for logits in answers]).add(weights[:, None, None]).logsumexp(dim=0)
