"""The control of every claim: the same student, trained the same way, by itself."""

from __future__ import annotations

from distill.recipe import Recipe
from distill.recipe_losses import LossEntry


def control_recipe(recipe: Recipe) -> Recipe:
    """The same student alone: cross-entropy at weight 1, and so with labels; all else equal."""
    own = {label: entry for label, entry in recipe.losses.items() if entry.name(label) == "ce"}
    losses = {label: entry.model_copy(update={"weight": 1.0}) for label, entry in own.items()} or {"ce": LossEntry()}
    data = recipe.data.model_copy(update={"labels": "given"})
    nobody = {"teacher": None, "teachers": None, "answers": "mean", "chain": None, "method": "distill", "peer": None}
    return recipe.model_copy(update={**nobody, "control": False, "losses": losses, "data": data})


def is_alone(recipe: Recipe) -> bool:
    """Whether this is a student alone: it learns from nothing but the labels."""
    is_taught = recipe.teacher is not None or recipe.teachers is not None or recipe.method != "distill"
    return not is_taught and all(entry.name(label) == "ce" for label, entry in recipe.losses.items())
