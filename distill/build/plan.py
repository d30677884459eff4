"""How long a run is, and which samples each of its steps has: known before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.data.sampler import StepSampler
from distill.data.sources.base import DataSource
from distill.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """How long a run is, known before anything is built."""

    steps_per_epoch: int
    num_steps: int
    num_epochs: int

    def images_seen(self, global_batch_size: int) -> int:
        return self.num_steps * global_batch_size


def make_sampler(recipe: Recipe, source: DataSource, *, rank: int, world_size: int) -> StepSampler:
    """Raises RecipeError or DataError if the batch can't be divided or filled."""
    return StepSampler(
        len(source.train),
        recipe.data.global_batch_size,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        accumulation=recipe.train.accumulation,
    )


def plan_run(recipe: Recipe, source: DataSource, world_size: int) -> Plan:
    """Raises RecipeError or DataError if the batch can't be divided or filled."""
    steps_per_epoch = make_sampler(recipe, source, rank=0, world_size=world_size).steps_per_epoch
    num_steps = recipe.train.epochs * steps_per_epoch
    if recipe.train.max_steps is not None:
        num_steps = min(num_steps, recipe.train.max_steps)
    return Plan(steps_per_epoch, num_steps, math.ceil(num_steps / steps_per_epoch))
