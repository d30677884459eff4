"""Checks what a recipe says of a class against the class's typed `__init__`, so that a loss needs no schema of its own."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from distill.errors import DistillError, RecipeError
from distill.losses.base import DistillLoss
from distill.recipe import what_is_wrong
from distill.recipe_losses import Schedule, is_schedule
from distill.suggestion import did_you_mean


def argument_model(cls: type) -> type[BaseModel]:
    """A pydantic model with a field for every argument of the class's `__init__`. Raises RecipeError where a type is none that a recipe can write."""
    try:
        return _argument_model(cls)
    except (NameError, TypeError, PydanticUserError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{cls.__name__}: the types of its arguments must be numbers, text, lists or mappings of these: {reason}") from error


def _argument_model(cls: Any) -> type[BaseModel]:
    hints = typing.get_type_hints(cls.__init__)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=()), **fields)


def check_arguments(cls: type, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """(the arguments, coerced to their types), [(argument, what is wrong with it), ...]."""
    model = argument_model(cls)
    wrong = [
        (name, f"must not be true or false, got {str(value).lower()}")
        for name, value in given.items()
        if isinstance(value, bool) and name in model.model_fields and model.model_fields[name].annotation in (int, float)
    ]
    unknown = [(name, f"unknown argument{did_you_mean(name, model.model_fields)}") for name in given if name not in model.model_fields]
    refused = {name for name, _ in wrong + unknown}
    try:
        checked = model.model_validate({name: value for name, value in given.items() if name not in refused})
    except ValidationError as error:
        return {}, wrong + unknown + [(".".join(map(str, path)), message) for path, message in what_is_wrong(error)]
    return {name: getattr(checked, name) for name in checked.model_fields_set}, wrong + unknown


def construct(cls: type, given: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    """(an instance or None, [(argument or "", what is wrong), ...]): also what the class itself says of the values.

    An argument with a schedule has its first value in the instance; the last one is tried too.
    """
    schedules, wrong = read_schedules(given)
    if wrong:
        return None, wrong
    for end in (1, 0):
        values = {**given, **{name: schedule.ends[end] for name, schedule in schedules.items()}}
        instance, wrong = _construct(cls, values)
        if wrong:
            return None, wrong
    wrong = [
        (name, f"can't follow a schedule: {cls.__name__} does not keep it as a number under its own name")
        for name in schedules
        if not isinstance(getattr(instance, name, None), float)
    ]
    return (None if wrong else instance), wrong


def read_schedules(given: Mapping[str, Any]) -> tuple[dict[str, Schedule], list[tuple[str, str]]]:
    """(argument -> its schedule, for those that have one; what is wrong with them)."""
    schedules, wrong = {}, []
    for name, value in given.items():
        if is_schedule(value):
            try:
                schedules[name] = Schedule.model_validate(value)
            except ValidationError as error:
                wrong += [(".".join(map(str, (name, *path))), message) for path, message in what_is_wrong(error)]
    return schedules, wrong


def _construct(cls: type, given: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    arguments, wrong = check_arguments(cls, given)
    if wrong:
        return None, wrong
    try:
        instance = cls(**arguments)
    except DistillError as error:
        return None, [("", str(error))]
    except (Exception, SystemExit) as error:  # a stranger's class may raise anything
        return None, [("", f"its __init__ raised {type(error).__name__}: {error}")]
    if issubclass(cls, DistillLoss) and not _are_names(getattr(instance, "layers", None)):
        return None, [("", f"the __init__ of {cls.__name__} must call super().__init__(layers=[...]) with the names of the features that it uses")]
    return instance, []


def _are_names(layers: object) -> bool:
    return isinstance(layers, Sequence) and all(isinstance(layer, str) for layer in layers)
