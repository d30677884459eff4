"""From a recipe's losses to a Distiller: made, told what networks and data are like, weighed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from distill.build.arguments import construct, read_schedules
from distill.build.plan import Plan
from distill.data.loader import NO_LABEL
from distill.data.sources.base import DataSource
from distill.engine import schedules
from distill.engine.distiller import Distiller
from distill.engine.methods.mutual import MutualDistiller
from distill.engine.network import Network
from distill.errors import DistillError, RecipeError
from distill.losses.base import DistillLoss
from distill.recipe import Recipe
from distill.recipe_losses import Schedule, auto_ratio
from distill.resolve import Catalogue
from distill.structures import DataInfo, ModelInfo


def make_losses(recipe: Recipe, catalogue: Catalogue) -> dict[str, DistillLoss]:
    """label -> loss. Raises RecipeError that names the label and the argument."""
    losses = {}
    for label, entry in recipe.losses.items():
        loss, wrong = construct(catalogue.get("losses", entry.name(label)), entry.model_extra or {})
        if wrong:
            raise RecipeError("; ".join(f"losses.{label}.{argument}: {message}" for argument, message in wrong))
        losses[label] = loss
    return losses


def training_data(source: DataSource, recipe: Recipe) -> DataInfo:
    """What losses may know of the training pictures."""
    labels = torch.from_numpy(source.train.labels)
    if recipe.data.labels == "none":
        labels = torch.full_like(labels, NO_LABEL)
    return DataInfo(torch.from_numpy(source.train.sample_ids), labels)


def set_up(losses: Mapping[str, DistillLoss], student: ModelInfo, teacher: ModelInfo | None, data: DataInfo | None, seed: int) -> None:
    """Gives every loss the shapes it may need; initial weights depend on the seed alone. Errors name the loss by its label."""
    for label, loss in losses.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loss.data = data
            try:
                loss.setup(student, cast("ModelInfo", teacher))  # None only for losses that need no teacher, whose setup takes it
            except DistillError as error:
                raise RecipeError(f"losses.{label}: {error}") from error
            except Exception as error:  # a stranger's class may raise anything
                raise RecipeError(f"losses.{label}: its setup raised {type(error).__name__}: {error}") from error


def make_distiller(recipe: Recipe, student: Network, losses: Mapping[str, DistillLoss], plan: Plan, *, peer: Distiller | None = None) -> Distiller:
    """Student and losses with the recipe's weights and schedules. peer: the other of two students that learn from each other."""
    auto = {label: ratio for label, entry in recipe.losses.items() if (ratio := auto_ratio(entry.weight)) is not None}
    constant = {label: entry.weight for label, entry in recipe.losses.items() if isinstance(entry.weight, float)}
    moving = {(label, "weight"): entry.weight for label, entry in recipe.losses.items() if isinstance(entry.weight, Schedule)}
    for label, entry in recipe.losses.items():
        moving |= {(label, name): schedule for name, schedule in read_schedules(entry.model_extra or {})[0].items()}
    schedules_by_step = {key: _by_step(schedule, plan) for key, schedule in moving.items()}
    if peer is not None:
        return MutualDistiller(student, losses, constant, schedules_by_step, peer=peer)
    return Distiller(student, losses, constant, schedules_by_step, auto)


def _by_step(schedule: Schedule, plan: Plan) -> schedules.Schedule:
    num_steps = plan.num_steps if schedule.epochs is None else round(schedule.epochs * plan.steps_per_epoch)
    start, end = schedule.ends
    return schedules.make_schedule(schedule.schedule, start=start, end=end, num_steps=num_steps)
