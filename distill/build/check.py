"""What can be wrong with a recipe beyond its structure: names that stand for nothing, and arguments that a class does not take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from distill.build.arguments import check_arguments, construct
from distill.engine.trackers_accelerate import what_is_missing
from distill.errors import RecipeError
from distill.models.zoo import model_exists
from distill.recipe import shown_value
from distill.recipe_files import Problem
from distill.recipe_losses import is_schedule
from distill.resolve import Catalogue


def find_problems(values: Mapping[str, Any], catalogue: Catalogue) -> list[Problem]:
    """Every problem found in a recipe's raw values; what is not a mapping where one is needed is left to the check of the structure."""
    found = [*_in_losses(values, catalogue), *_in_models(values, catalogue), *_in_source(values, catalogue), *_in_tracking(values)]
    return found + ([*_without_labels(values, catalogue)] if _mapping(values, "data").get("labels") == "none" else [])


def _in_losses(values: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Problem]:
    for label, entry in _mapping(values, "losses").items():
        entry = {} if entry is None else entry
        if not isinstance(entry, Mapping) or not isinstance(name := entry.get("type") or label, str):
            continue
        try:
            cls = catalogue.get("losses", name)
        except RecipeError as error:
            yield Problem(f"losses.{label}", str(error))
            continue
        arguments = {key: value for key, value in entry.items() if key not in ("type", "weight")}
        for argument, message in construct(cls, arguments)[1]:
            yield Problem(".".join(filter(None, ("losses", label, argument))), message)
        yield from _too_long(label, entry, values)
        if cls.needs_teacher and not _teachers(values) and values.get("method", "distill") == "distill":
            yield Problem(f"losses.{label}", f"the loss {name!r} needs a teacher, and the recipe has none; remove it with losses.{label}=null")


def _without_labels(values: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Problem]:
    """What can't be had where training looks at no label."""
    for label, entry in _mapping(values, "losses").items():
        entry = entry if isinstance(entry, Mapping) else {}
        with contextlib.suppress(RecipeError):  # an unknown loss has its own message
            name = entry.get("type") or label
            if isinstance(name, str) and catalogue.get("losses", name).needs_labels:
                yield Problem(f"losses.{label}", f"the loss {name!r} looks at labels, and data.labels is none; remove it with losses.{label}=null")
        if str(entry.get("weight", "")).startswith("auto"):
            message = "auto compares with the gradient of cross-entropy, which needs labels, and data.labels is none; give a number"
            yield Problem(f"losses.{label}.weight", message)
    if values.get("control"):
        yield Problem("control", "the student alone learns from labels, and data.labels is none; set control=false")
    if _mapping(values, "train").get("log_gradients_every"):
        yield Problem("train.log_gradients_every", "gradients are compared with that of cross-entropy, which needs labels; set it to 0")
    if not _teachers(values):
        yield Problem("teacher", "without labels the student learns from a teacher alone, and the recipe has none; name one or set data.labels=given")
    for role, teacher in _teachers(values).items():
        if teacher.get("weights", "train") == "train":
            yield Problem(f"{role}.weights", "a teacher is trained on labels, and data.labels is none; name the weights of one that is trained")


def _too_long(label: str, entry: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Problem]:
    num_epochs = _mapping(values, "train").get("epochs")
    for name, value in entry.items():
        length = value.get("epochs") if is_schedule(value) else None
        if isinstance(length, int | float) and isinstance(num_epochs, int) and length > num_epochs:
            yield Problem(
                f"losses.{label}.{name}.epochs", f"the schedule takes {shown_value(length)} epochs and the run only {num_epochs} (train.epochs)"
            )


def _in_models(values: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Problem]:
    teachers = _teachers(values)
    for role, teacher in teachers.items():
        if teacher.get("image_size") is not None and teacher.get("weights", "train") == "train":
            message = "a teacher that is trained here is trained in data.image_size; leave it out, or name trained weights"
            yield Problem(f"{role}.image_size", message)
    for role, network in (*teachers.items(), *((role, _mapping(values, role)) for role in ("student", "peer"))):
        name = network.get("model")
        if isinstance(name, str) and (message := model_exists(name, catalogue.models)):
            yield Problem(f"{role}.model", message)
    chain = values.get("chain")
    for name in chain if isinstance(chain, list) else ():
        if isinstance(name, str) and (message := model_exists(name, catalogue.models)):
            yield Problem("chain", message)


def _in_source(values: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Problem]:
    data = _mapping(values, "data")
    name = data.get("source", "sample")
    if not isinstance(name, str):
        return
    try:
        cls = catalogue.get("sources", name)
    except RecipeError as error:
        yield Problem("data.source", str(error))
        return
    given = data.get("arguments") or {}
    if isinstance(given, Mapping):
        for argument, message in check_arguments(cls, given)[1]:
            yield Problem(".".join(filter(None, ("data.arguments", argument))), message)


def _in_tracking(values: Mapping[str, Any]) -> Iterator[Problem]:
    names = values.get("tracking")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and (message := what_is_missing(name)):
            yield Problem("tracking", message)


def _teachers(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """role -> what is said of each network that is learned from, as far as that is a mapping."""
    several = values.get("teachers")
    found = {f"teachers.{number}": entry for number, entry in enumerate(several)} if isinstance(several, list) else {}
    found |= {"teacher": values["teacher"]} if values.get("teacher") is not None else {}
    return {role: entry if isinstance(entry, Mapping) else {} for role, entry in found.items()}


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key)
    return section if isinstance(section, Mapping) else {}
