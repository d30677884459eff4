"""What a recipe's student learns from, and a chain of assistants written out in full."""

from __future__ import annotations

from typing import Any

from distill.recipe import Recipe, Student, Teacher

_OF_THE_DATA = ("norm", "stem", "mean", "std")  # what an assistant has in common with the student: both are trained here, on the same pictures


def in_full(recipe: Recipe) -> Recipe:
    """The recipe with its chain written out: `teacher` is the last assistant, whose own `teacher` is the one before it, and so on to the first."""
    if recipe.chain is None:
        return recipe
    first, *assistants, _ = recipe.chain
    given = recipe.teacher
    assert given is not None  # check_chain has seen to it
    teacher = given.model_copy(update={"model": first})
    shared: dict[str, Any] = {name: getattr(recipe.student, name) for name in _OF_THE_DATA} | {"cache": given.cache, "check": given.check}
    for name in assistants:
        teacher = Teacher(model=name, weights="train", teacher=teacher, **shared)
    return recipe.model_copy(update={"chain": None, "teacher": teacher})


def taught_by(recipe: Recipe) -> dict[str, Teacher]:
    """role -> what the recipe says of a network that its student learns from: "teacher", or "teachers.0", "teachers.1", ..."""
    if recipe.teachers is not None:
        return {f"teachers.{number}": teacher for number, teacher in enumerate(recipe.teachers)}
    return {} if recipe.teacher is None else {"teacher": recipe.teacher}


def with_one_teacher(recipe: Recipe, role: str) -> Recipe:
    """The recipe as if this were its only teacher: what is done for one teacher is done for each of several in this way."""
    return recipe.model_copy(update={"teacher": taught_by(recipe)[role], "teachers": None})


def shares(recipe: Recipe) -> list[float]:
    """Of several teachers; 1 in all."""
    teachers = recipe.teachers or []
    total = sum(teacher.weight for teacher in teachers)
    return [teacher.weight / total for teacher in teachers]


def chain_of(recipe: Recipe) -> list[str]:
    """The models from the first teacher to the student where there are assistants between them; else nothing."""
    names = [recipe.student.model]
    teacher: Teacher | None = recipe.teacher
    while teacher is not None:
        names, teacher = [teacher.model, *names], teacher.teacher
    return names if len(names) > 2 else []


def assistant_recipe(recipe: Recipe) -> Recipe:
    """The recipe that trains its teacher, which is an assistant, as this recipe trains its student; but with the seed that teachers have, so that
    runs with several seeds share it."""
    assistant = recipe.teacher
    assert assistant is not None  # there is one where this is asked for
    student = Student(**{name: getattr(assistant, name) for name in ("model", "arguments", "features", *_OF_THE_DATA)})
    aside: dict[str, Any] = {
        "description": f"the assistant {assistant.model}",
        "run_name": None,
        "control": False,
        "tracking": [],
        "time_limit": None,
        "seed": 0,
    }
    return recipe.model_copy(update={"student": student, "teacher": assistant.teacher, "teachers": None, "answers": "mean", **aside})
