"""When two recipes are the same: what of them decides the training's result."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from distill.recipe import Recipe, shown_value
from distill.recipe_yaml import dotted

WHERE_WEIGHTS_ARE = re.compile(
    r"(student|peer)\.weights|(teachers\.\d+\.)?(teacher\.)*weights"
)  # which they are is known by their hash when a run goes on
_ABSENT = object()
_ASIDE: dict[str, Any] = {
    "data": {"root", "workers"},
    "train": {"log_every", "log_gradients_every", "checkpoint_every_minutes", "checkpoint_every_steps", "keep_checkpoints"},
    **dict.fromkeys(("description", "run_name", "runs_dir", "control", "time_limit", "tracking", "deterministic"), True),
}


def fingerprint(recipe: Recipe) -> str:
    """Returns a SHA-256 over what decides the training's result: not over names, places, workers or checks.

    The pictures themselves are left to the fingerprint of their source.
    """
    return hashlib.sha256(json.dumps(_deciding(recipe), sort_keys=True).encode()).hexdigest()


def differences(old: Recipe, new: Recipe, *, apart_from: re.Pattern[str] | None = None) -> list[str]:
    """Returns, in words, each value that decides the training's result and is not the same in both, but for the paths that fit."""
    both = [{dotted(path): value for path, value in leaves(_deciding(recipe))} for recipe in (old, new)]
    changed = [path for path in {**both[0], **both[1]} if both[0].get(path, _ABSENT) != both[1].get(path, _ABSENT)]
    paths = [path for path in changed if apart_from is None or not apart_from.fullmatch(path)]
    return [f"{path}: {_shown(both[0], path)} then, {_shown(both[1], path)} now" for path in paths]


def _shown(values: dict[str, Any], path: str) -> str:
    return shown_value(values[path]) if path in values else "not there"


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """What decides the training's result. A method that is not used is left out, so that a new one changes no recipe without it."""
    values = recipe.model_dump(mode="json", exclude=_ASIDE)
    if values["method"] == "distill":
        del values["method"]
    if values["peer"] is None:
        del values["peer"]
    if values["chain"] is None:
        del values["chain"]
    if values["teachers"] is None:
        del values["teachers"], values["answers"]
    for teacher in (values["teacher"], *values.get("teachers", ())):
        while teacher is not None:
            del teacher["check"], teacher["claimed_top1"], teacher["cache"]["folder"]
            teacher = teacher.pop("teacher") if teacher["teacher"] is None else teacher["teacher"]
    return values


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, value) of everything that is no mapping or list of mappings, or an empty one."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value
