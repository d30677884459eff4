"""What each term asks of the student: the size of its gradient, and how far it points the same way as cross-entropy's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from distill.engine.distiller import Distiller
from distill.errors import RecipeError
from distill.structures import Batch, Outputs


class Gradient(NamedTuple):
    """Of one term, before its weight, with respect to the student's parameters."""

    norm: float
    cosine: float  # to cross-entropy's gradient; 0 where one of them is 0


class Gradients(NamedTuple):
    """Of one batch."""

    cross_entropy_norm: float  # of plain cross-entropy with the labels, whether it is a term or not
    terms: dict[str, Gradient]  # by label


def measure_gradients(distiller: Distiller, batch: Batch, teacher: Outputs | None, accelerator: Accelerator, scale: float = 1.0) -> Gradients:
    """The gradient of every term, of the mean over all processes.

    One forward of its own, with the Distiller itself and not its wrapping; nothing is changed by it, batch statistics included.
    scale: multiplies each loss before its backward, where half precision would lose small gradients.
    """
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]

    def flat(term: Tensor) -> Tensor:
        factor = scale
        while True:  # what the whole loss can bear may be too much for one term; all processes see the same mean, so they go on alike
            gradient = accelerator.reduce(_flat_gradient(factor * term, parameters), "mean").cpu().double() / factor
            if factor <= 1 or gradient.isfinite().all():
                return gradient
            factor = max(1.0, factor / 16)

    with _left_as_it_was(distiller):
        logits, terms = distiller.terms(batch, teacher)
        reference = flat(F.cross_entropy(logits, batch.labels))
        return Gradients(reference.norm().item(), {label: _describe(flat(terms[label]), reference) for label in distiller.losses})


def auto_weights(ratios: Mapping[str, float], gradients: Gradients) -> dict[str, float]:
    """label -> the weight at which the term's gradient norm is its ratio of cross-entropy's. Raises RecipeError for a term without gradient."""
    weights, reference = {}, gradients.cross_entropy_norm
    for label, ratio in ratios.items():
        norm = gradients.terms[label].norm
        for whose, value in (("its", norm), ("cross-entropy's", reference)):
            if not 0 < value < float("inf"):
                raise RecipeError(f"losses.{label}.weight: auto({ratio:g}): {whose} gradient has norm {value:g} in the first step; give a number")
        weights[label] = ratio * reference / norm
    return weights


def _flat_gradient(term: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """[number of parameters' elements]; 0 for those that the term does not reach."""
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True) if term.requires_grad else [None] * len(parameters)
    return torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for p, gradient in zip(parameters, gradients, strict=True)])


def _describe(gradient: Tensor, reference: Tensor) -> Gradient:
    """Both in float64: float32 loses digits over millions of parameters."""
    norm, product = gradient.norm().item(), (gradient.norm() * reference.norm()).item()
    return Gradient(norm, (gradient @ reference).item() / product if product > 0 else 0.0)


@contextmanager
def _left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Buffers (batch statistics, memory banks) and random numbers are afterwards what they were before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = sorted({buffer.device.index for buffer, _ in kept if buffer.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)
