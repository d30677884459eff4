"""From a recipe's teachers to what a step asks; and one of several teachers as if it were the only one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from distill.build.pieces import Pieces
from distill.engine.costs import Costs
from distill.engine.methods.several_teachers import SeveralTeachers
from distill.engine.teacher import Asked
from distill.recipe import Recipe
from distill.recipe_teachers import shares, taught_by, with_one_teacher


def each_teacher(recipe: Recipe, pieces: Pieces) -> Iterator[tuple[str, Recipe, Pieces]]:
    """(role, the recipe and the pieces as if this were their only teacher) for each: what is done for one is done for each of several."""
    if recipe.teachers is None:
        if recipe.teacher is not None:
            yield "teacher", recipe, pieces
        return
    for role, teacher in zip(taught_by(recipe), pieces.teacher.teachers, strict=True):
        yield role, with_one_teacher(recipe, role), dataclasses.replace(pieces, teacher=teacher)


def asked(pieces: Pieces, kept: Mapping[str, Asked | None]) -> Asked | None:
    """What a step asks. kept: by role, what is asked in place of a teacher, such as its kept answers."""
    if isinstance(pieces.teacher, SeveralTeachers):
        return pieces.teacher.asking([own or teacher for own, teacher in zip(kept.values(), pieces.teacher.teachers, strict=True)])
    return kept.get("teacher") or pieces.teacher


def costs_together(recipe: Recipe, costs: Sequence[Costs]) -> Costs:
    """Of asking several teachers for one picture; of those that are drawn, on average."""
    times = shares(recipe) if recipe.answers == "sampled" else [1.0] * len(costs)
    pairs = list(zip(times, costs, strict=True))
    return Costs(
        sum(one.num_parameters for one in costs),
        round(sum(share * one.gmacs for share, one in pairs), 6),
        round(1 / sum(share / one.images_per_second for share, one in pairs), 1),
        latency_ms=round(sum(share * one.latency_ms for share, one in pairs), 4),
    )
