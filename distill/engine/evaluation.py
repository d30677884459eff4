"""Scoring: teacher and student by the same code, every sample exactly once on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from distill.data.loader import EvaluationLoader
from distill.structures import Batch, Outputs

Watch = Callable[[Tensor, Batch, Mapping[str, Tensor]], None]  # (positions [n], batch, logits [n, K] by network), once a batch


Answering = Callable[[Tensor], Outputs]  # images [N, 3, H, W] uint8 -> what a network answers


@dataclass(frozen=True)
class Score:
    """What one network answered for a whole part; rows as in the part."""

    predictions: np.ndarray  # [N] int64, the most likely class
    confidences: np.ndarray  # [N] float32, its probability
    negative_log_likelihoods: np.ndarray  # [N] float32, of the true class
    squared_errors: np.ndarray  # [N] float32, of the probabilities, summed over the classes
    in_top5: np.ndarray  # [N] bool, whether fewer than five classes are likelier than the true one
    divergences: np.ndarray | None  # [N] float32, KL(reference || this network); None where nothing was the reference
    labels: np.ndarray  # [N] int64

    @property
    def top1(self) -> float:
        return float((self.predictions == self.labels).mean())

    @property
    def top5(self) -> float:
        return float(self.in_top5.mean())

    @property
    def nll(self) -> float:
        return float(self.negative_log_likelihoods.mean())

    @property
    def brier(self) -> float:
        """Brier score: the mean squared error of the probabilities, 0 to 2. Brier, 1950."""
        return float(self.squared_errors.mean())

    def agreement(self, other: Score) -> float:
        """The share of samples for which both name the same class."""
        return float((self.predictions == other.predictions).mean())

    def agreement_on_mistakes(self, other: Score) -> float | None:
        """Of the samples that the other gets wrong, the share for which this one names the same wrong class; None if it gets none wrong."""
        wrong = other.predictions != other.labels
        return float((self.predictions == other.predictions)[wrong].mean()) if wrong.any() else None


@torch.no_grad()
def score(
    networks: Mapping[str, Answering],
    loader: EvaluationLoader,
    accelerator: Accelerator,
    check: Callable[[], None] = lambda: None,
    *,
    reference: str | None = None,
    watches: Sequence[Watch] = (),
) -> dict[str, Score]:
    """Scores every network in one pass over the loader, on all processes together; the networks are in eval mode while it lasts.

    check: called once a batch, equally often in all processes; what it raises ends the scoring. reference: the network that the others' divergences
    are from. watches: called with what every batch gave. Each process fills in the rows that it saw and leaves the others 0; the sum over processes
    is then exact for any number of samples.
    """
    num_samples = len(loader.part)
    labels = torch.zeros(num_samples, dtype=torch.int64, device=accelerator.device)
    predictions = {name: torch.zeros_like(labels) for name in networks}
    values = {name: torch.zeros(len(_VALUES), num_samples, device=accelerator.device) for name in networks}
    with _in_eval_mode(networks.values()):
        for positions, batch in _batches(loader, check):
            labels[positions] = batch.labels
            logits = {name: network(batch.images).logits.float() for name, network in networks.items()}
            for name, ours in logits.items():
                predictions[name][positions] = ours.argmax(dim=1)
                values[name][:, positions] = _values(ours, batch.labels, logits.get(reference))
            for watch in watches:
                watch(positions, batch, logits)

    def everyones(tensor: Tensor) -> np.ndarray:
        return accelerator.reduce(tensor, "sum").cpu().numpy()

    all_labels = everyones(labels)
    scores = {}
    for name in networks:
        found = dict(zip(_VALUES, everyones(values[name]), strict=True))
        found |= {"in_top5": found["in_top5"] > 0.5, "divergences": found["divergences"] if reference not in (None, name) else None}
        scores[name] = Score(everyones(predictions[name]), **found, labels=all_labels)
    return scores


@torch.no_grad()
def predict(network: Callable[[Tensor], Outputs], loader: EvaluationLoader, accelerator: Accelerator, check: Callable[[], None]) -> np.ndarray:
    """[N] int64, the most likely class of each sample, on all processes together; labels are not looked at."""
    predictions = torch.zeros(len(loader.part), dtype=torch.int64, device=accelerator.device)
    with _in_eval_mode([network]):
        for positions, batch in _batches(loader, check):
            predictions[positions] = network(batch.images).logits.argmax(dim=1)
    return accelerator.reduce(predictions, "sum").cpu().numpy()


def _batches(loader: EvaluationLoader, check: Callable[[], None]) -> Iterator[tuple[Tensor, Batch]]:
    """This process's (positions, batch), with a check before each round, in which another process may have one batch more."""
    batches = iter(loader)
    for _ in range(loader.num_rounds):
        check()
        if (found := next(batches, None)) is not None:
            yield found


@contextlib.contextmanager
def _in_eval_mode(networks: Iterable[object]) -> Iterator[None]:
    """Each network has its own mode again afterwards, however that ends."""
    modules = [network for network in networks if isinstance(network, torch.nn.Module)]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


_VALUES = ("confidences", "negative_log_likelihoods", "squared_errors", "in_top5", "divergences")


def _values(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """[number of _VALUES, n] of logits [n, K]."""
    log_probabilities = F.log_softmax(logits, dim=1)
    probabilities = log_probabilities.exp()
    own = logits.gather(1, labels[:, None])
    divergences = torch.zeros(len(labels), device=logits.device)
    if reference is not None and reference is not logits:
        divergences = F.kl_div(log_probabilities, F.log_softmax(reference, dim=1), reduction="none", log_target=True).sum(dim=1)
    return torch.stack(
        [
            probabilities.amax(dim=1),
            F.cross_entropy(logits, labels, reduction="none"),
            (probabilities - F.one_hot(labels, logits.shape[1])).square().sum(dim=1),
            ((logits > own).sum(dim=1) < 5).float(),
            divergences,
        ]
    )
