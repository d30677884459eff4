"""Where a value that is not finite first appears in one micro-batch: in networks, features, logits, losses, gradients, and for which picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.engine.distiller import Distiller
from distill.errors import DistillError
from distill.structures import Batch, Outputs


def look_at(distiller: Distiller, batch: Batch, teacher: Outputs | None) -> dict[str, Any]:
    """One micro-batch: the places of values that are not finite in the order in which they are computed, the terms, and each picture."""
    places = [f"student's weights: {name}" for name, tensor in distiller.student.state_dict().items() if not _is_finite(tensor)]
    places += [f"weights of losses.{name}" for name, tensor in distiller.losses.state_dict().items() if not _is_finite(tensor)]
    places += [f"teacher's {name}" for name, tensor in _named(teacher) if not _is_finite(tensor)]
    answers: list[Outputs] = []
    with _Watched(distiller.student.model, places):
        handle = distiller.student.register_forward_hook(lambda module, inputs, outputs: answers.append(outputs))
        logits, terms = distiller.terms(batch, teacher)
        handle.remove()
    student = answers[0]
    rows, gradients = [], torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for label, term in terms.items():
        row, rows_bad = _gradient_of(label, term, distiller, student)
        rows.append(row)
        gradients |= rows_bad
        if not math.isfinite(row["value"]):
            places.append(f"the loss {label!r}")
    pictures = _pictures(distiller, batch, student, teacher, terms, gradients)
    return {"places": places, "terms": rows, "largest_logit": logits.detach().abs().max().item(), "pictures": pictures}


def _gradient_of(label: str, term: Tensor, distiller: Distiller, student: Outputs) -> tuple[dict[str, Any], Tensor]:
    """(a row of the report, [N] which pictures' logits have a gradient that is not finite)."""
    named = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    seen = {name: tensor for name, tensor in _named(student) if tensor.requires_grad}
    wanted = [*named.values(), *seen.values()]
    found = torch.autograd.grad(term, wanted, retain_graph=True, allow_unused=True) if term.requires_grad else [None] * len(wanted)
    gradients = dict(zip([*named, *seen], found, strict=True))
    norms = [gradient.double().norm() for name, gradient in gradients.items() if gradient is not None and name.startswith("student.")]
    wrong = [name for name, gradient in gradients.items() if gradient is not None and not _is_finite(gradient)]
    of_logits = gradients.get("logits")
    rows = torch.zeros(len(student.logits), dtype=torch.bool, device=term.device) if of_logits is None else ~of_logits.isfinite().all(dim=1)
    row: dict[str, Any] = {"term": label, "value": term.item(), "weight": float(distiller.weight(label))}
    row |= {"gradient_norm": torch.stack(norms).norm().item() if norms else 0.0, "wrong_at": [name for name in wrong if name in seen]}
    return row | {"num_wrong_parameters": sum(name in named for name in wrong)}, rows


@torch.no_grad()
def _pictures(
    distiller: Distiller, batch: Batch, student: Outputs, teacher: Outputs | None, terms: Mapping[str, Tensor], gradients: Tensor
) -> list[dict[str, Any]]:
    """Each picture by itself: its logits, its cross-entropy, its gradient, and the terms that are not finite for it alone."""
    losses = F.cross_entropy(student.logits, batch.labels, reduction="none")
    alone = {label: loss for label, loss in distiller.losses.items() if not loss.batch_coupled and (teacher is not None or not loss.needs_teacher)}
    bad = [label for label in alone if not _is_finite(terms[label])]
    rows = []
    for index, sample_id in enumerate(batch.sample_ids.tolist()):
        row = {"sample_id": sample_id, "label": batch.labels[index].tolist(), "cross_entropy": losses[index].item()}
        row |= {"are_logits_finite": _is_finite(student.logits[index]), "largest_logit": student.logits[index].abs().max().item()}
        row |= {"is_gradient_finite": not bool(gradients[index])}
        rows.append(row | {"terms": [label for label in bad if _is_bad_alone(distiller.losses[label], index, batch, student, teacher)]})
    return rows


def _is_bad_alone(loss: nn.Module, index: int, batch: Batch, student: Outputs, teacher: Outputs | None) -> bool:
    def of(outputs: Outputs | None) -> Outputs | None:
        return outputs and Outputs(outputs.logits[index : index + 1], {k: v[index : index + 1] for k, v in outputs.features.items()}, outputs.head)

    images, labels, sample_ids, view = (tensor[index : index + 1] for tensor in batch.tensors)
    alone = Batch(images, labels, sample_ids, view)
    try:
        return not _is_finite(loss(of(student), of(teacher), alone))
    except (DistillError, RuntimeError, ValueError, IndexError):  # a loss that can't take one picture says nothing about it
        return False


class _Watched:
    """Notes which of a model's innermost modules are the first to give a value that is not finite."""

    def __init__(self, model: nn.Module, places: list[str]):
        self.model, self.places, self._is_found = model, places, False
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for name, module in self.model.named_modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(self._noting(name)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self._is_found and isinstance(output, Tensor) and not _is_finite(output):
                self._is_found = True
                self.places.append(f"student's {name} ({type(module).__name__}), in its output")

        return note


def _named(outputs: Outputs | None) -> Iterator[tuple[str, Tensor]]:
    if outputs is not None:
        yield from outputs.features.items()
        yield "logits", outputs.logits


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())
