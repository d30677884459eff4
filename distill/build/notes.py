"""What a person should know of a recipe's losses before they start: memory that would surprise, and what "batch" means."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.data.sources.base import DataSource
from distill.engine.distiller import Distiller
from distill.recipe import Recipe

_TOO_MUCH = 0.5  # a loss that adds half of what the step needs anyway


def loss_notes(distiller: Distiller, recipe: Recipe, source: DataSource, num_processes: int) -> list[str]:
    """Sentences, each with the label of the loss that it is about."""
    return [*_on_memory(distiller, recipe, source, num_processes), *_on_the_batch(distiller, recipe)]


def _on_memory(distiller: Distiller, recipe: Recipe, source: DataSource, num_processes: int) -> list[str]:
    together = recipe.data.global_batch_size // recipe.train.accumulation
    extra = {label: loss.extra_bytes(together if loss.batch_coupled else together // num_processes) for label, loss in distiller.each_loss()}
    if not any(extra.values()):
        return []
    step = step_bytes(distiller, source.image_size, together // num_processes)
    return [
        f"losses.{label} needs about {size_in_words(bytes_)} more at its peak, beside about {size_in_words(step)} for the rest of the step: "
        "a smaller data.global_batch_size or a larger train.accumulation lowers it"
        for label, bytes_ in extra.items()
        if bytes_ > _TOO_MUCH * step
    ]


def _on_the_batch(distiller: Distiller, recipe: Recipe) -> list[str]:
    coupled = [f"losses.{label}" for label, loss in distiller.each_loss() if loss.batch_coupled]
    if not coupled or recipe.train.accumulation == 1:
        return []
    size = recipe.data.global_batch_size // recipe.train.accumulation
    return [f"{', '.join(coupled)}: relates the pictures of a batch, which is {size} of all processes together here: one part of train.accumulation"]


def step_bytes(distiller: Distiller, image_size: int, batch_size: int) -> int:
    """About what a step of the student needs: weights, gradients and one optimizer state, and what its forward keeps for the backward."""
    student = distiller.student
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = list(student.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    was_training, num_tried = student.training, min(2, batch_size)
    pixels = torch.zeros(num_tried, 3, image_size, image_size, dtype=torch.uint8, device=student.mean.device)
    student.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = student(pixels)
    student.train(was_training)
    del outputs
    return 3 * sum(parameter.nbytes for parameter in parameters) + sum(kept.values()) * batch_size // num_tried


def size_in_words(num_bytes: float) -> str:
    """512 bytes, 3.1 KB, 41 MB, 1.2 GB"""
    if num_bytes >= 1e8:
        return f"{num_bytes / 1e9:,.1f} GB"
    for unit, name in ((1e6, "MB"), (1e3, "KB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.{int(num_bytes < 10 * unit)}f} {name}"
    return f"{num_bytes:.0f} bytes"
