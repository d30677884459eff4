"""Is the teacher what it is said to be? Tried on validation pictures before anything is trained."""

from __future__ import annotations

import numpy as np
from accelerate import Accelerator

from distill.build.loaders import evaluation_loader
from distill.build.pieces import Pieces
from distill.data.sources.base import DataSource
from distill.engine.evaluation import score
from distill.errors import DataError
from distill.recipe import OneOfSeveral, Recipe
from distill.running import Job

_NUM_CHECKED = 1000  # validation pictures that a teacher is tried on


def check_teacher(recipe: Recipe, source: DataSource, pieces: Pieces, accelerator: Accelerator, job: Job, *, claimed: float | None) -> None:
    """Tries the teacher on validation pictures. Raises DataError if it is near chance or falls short of what was claimed for it."""
    if recipe.teacher.num_classes not in (None, len(source.class_names)):
        job.console.print(f"teacher: it knows {recipe.teacher.num_classes} classes, not these {len(source.class_names)}: only its features are used")
        return
    positions = np.linspace(0, len(source.val) - 1, min(_NUM_CHECKED, len(source.val))).astype(int)
    part = source.val.subset(positions)
    loader = evaluation_loader(recipe, source, part, accelerator, job.say)
    result = score({"teacher": pieces.teacher.network}, loader, accelerator, job.stopper.check)["teacher"]
    claimed, top1, chance = recipe.teacher.claimed_top1 or claimed, result.top1, 1 / len(source.class_names)
    job.console.print(f"teacher: {top1:.1%} on {len(part):,} validation pictures" + (f" (claimed: {claimed:.1%})" if claimed else ""))
    if recipe.teacher.weights == "random":
        job.console.print("teacher: its weights are random, as the recipe says: this is good for tests only", style="yellow")
    elif recipe.teacher.check:
        _judge_teacher(recipe, top1, chance, claimed, len(part))


def _judge_teacher(recipe: Recipe, top1: float, chance: float, claimed: float | None, num: int) -> None:
    who, way_out = f"the teacher {recipe.teacher.model}", "set teacher.check=false to use it all the same"
    if isinstance(recipe.teacher, OneOfSeveral):
        way_out = "set check: false in its entry of teachers to use it all the same"
    if top1 < min(3 * chance, chance + 0.25 * (1 - chance)):
        raise DataError(
            f"{who} is right on {top1:.1%} of the validation pictures, near chance ({chance:.1%}): it has nothing to teach. Are these its "
            f"classes, in the order of its training, and is its normalisation (teacher.mean, teacher.std) right? If not, {way_out}"
        )
    if claimed is not None and top1 < claimed - max(0.02, 3 * (claimed * (1 - claimed) / num) ** 0.5):
        raise DataError(
            f"{who} is right on {top1:.1%} of {num:,} validation pictures, but {claimed:.1%} was claimed for it. Are the data, the size and "
            f"the normalisation (teacher.mean, teacher.std) those that it was scored with? If so, {way_out}"
        )
