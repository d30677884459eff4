"""A study as a file: what `distill compare STUDY.yaml` reads instead of options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool, ValidationError

from distill.errors import RecipeError
from distill.recipe import what_is_wrong
from distill.recipe_search import read_text, shown_path
from distill.recipe_types import Arguments, Count, Label, Section, Seed, Text
from distill.recipe_yaml import dotted, parse, plain_values
from distill.study.wish import Wish


class Study(Section):
    """What is compared: every recipe with every student, teacher and variant, for each seed, and each student alone."""

    recipes: Annotated[list[Text], Field(min_length=1)] = Field(description="Names or files of recipes.")
    seeds: Count | list[Seed] = Field(3, description="A number of seeds, from 0 on, or a list of them.")
    losses: list[Text] = Field([], description="Losses, each in place of the recipe's own.")
    students: list[Text] = Field([], description="Models, each as the student.")
    teachers: list[Text] = Field([], description="Models, each as the teacher.")
    variants: dict[Label, Arguments] = Field({}, description="Name -> values that are changed in the recipe.")
    ablate: StrictBool = Field(False, description="Also leave out each of the recipe's losses in turn.")
    overrides: Arguments = Field({}, description="Values that are changed in all runs.")


def is_study(path: Path) -> bool:
    """Whether the file is a study, not a recipe: a study has `recipes`."""
    node, _ = parse(read_text(path), lambda line: "")
    return node is not None and isinstance(node.value, dict) and "recipes" in node.value


def read_study(path: Path) -> Wish:
    """Raises RecipeError with all that is wrong in the file."""
    node, problems = parse(read_text(path), lambda line: f"{shown_path(path)}:{line}")
    if problems or node is None:
        raise RecipeError("\n".join(map(str, problems)) or f"{shown_path(path)} is empty")
    try:
        study = Study.model_validate(plain_values(node))
    except ValidationError as error:
        raise RecipeError("\n".join(f"{shown_path(path)}: {dotted(where)}: {message}" for where, message in what_is_wrong(error))) from error
    return Wish(
        study.recipes,
        range(study.seeds) if isinstance(study.seeds, int) else study.seeds,
        study.losses,
        study.students,
        study.teachers,
        {name: as_overrides(values) for name, values in study.variants.items()},
        study.ablate,
        as_overrides(study.overrides),
    )


def as_overrides(values: dict[str, Any], before: str = "") -> list[str]:
    """{"train": {"epochs": 8}} -> ["train.epochs=8"]; a null inside `losses` removes that loss."""
    found = []
    for key, value in values.items():
        path = f"{before}{key}"
        if isinstance(value, dict) and value:
            found += as_overrides(value, f"{path}.")
        else:
            found.append(f"{path}={json.dumps(value)}")
    return found
