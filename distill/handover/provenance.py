"""Where an exported student is from: everything of export.json but the list of files. No path of this machine is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import distill
from distill import record
from distill.handover.check import Check
from distill.handover.formats import Format
from distill.handover.student import Student
from distill.models.published import published_weights
from distill.models.saved import HUB
from distill.recipe import Network, Recipe, Teacher
from distill.recipe_files import fingerprint
from distill.recipe_teachers import taught_by
from distill.report.runs import Run
from distill.report.statistics import share_interval

FORMAT = 1  # of export.json
ROWS = (("teacher", "teacher"), ("alone", "student alone"), ("distilled", "distilled student"), ("peer", "the other student"))
_PUBLISHED = re.compile(r"(torchvision|timm|hf-hub):\S+")


def provenance(student: Student, target: Format, found: Check | None) -> dict[str, Any]:
    """found: what the check has found; None where nothing was checked."""
    run, recipe = student.run, student.run.recipe
    return {
        "format": FORMAT,
        "made_by": f"distill {distill.__version__}",
        "created": record.now(),
        "to": target.name,
        "run": {"name": run.name, "created": run.summary.get("created"), "seed": recipe.seed, "fingerprint": run.summary.get("fingerprint")},
        "student": _student(student),
        "method": recipe.method,
        "teachers": [_teacher(entry) for entry in taught_by(recipe).values()],
        "answers": recipe.answers if recipe.teachers is not None else None,
        "peer": recipe.peer and recipe.peer.model,
        "data": {key: value for key, value in run.data.items() if key != "class_names"},
        "results": _results(run),
        "check": None if found is None else found.as_dict() | {"machine": _machine(), "notes": list(student.notes)},
        "licences": list(_licences(recipe)),
        "recipe": _without_places(recipe.model_dump(mode="json", exclude={"runs_dir", "time_limit", "tracking", "run_name"})),
        "recipe_fingerprint": fingerprint(recipe),
        "environment": {key: value for key, value in run.environment.items() if key != "command"},
        "versions": {name: record.version(name) for name in (*record.PACKAGES, *target.packages)},
    }


def _machine() -> dict[str, Any]:
    known = record.environment("cpu", "fp32", 1)
    return {key: known[key] for key in ("processor", "num_cores", "device", "precision")}


def _student(student: Student) -> dict[str, Any]:
    entry, recipe = student.run.recipe.student, student.run.recipe
    return {
        "model": entry.model,
        "num_classes": student.config.num_classes,
        "num_parameters": sum(parameter.numel() for parameter in student.model.parameters()),
        "gmacs": student.run.row.get("gmacs"),
        "began_with": f"random weights of seed {recipe.seed}" if entry.weights is None else _place(entry.weights),
        "is_average": recipe.train.ema_decay is not None,
    }


def _teacher(teacher: Teacher) -> dict[str, Any]:
    found = {"model": teacher.model, "weights": _place(teacher.weights)}
    if teacher.teacher is not None:
        return found | {"teacher": _teacher(teacher.teacher)}
    if teacher.weights == "train":
        found |= {"recipe": _place(teacher.recipe), "began_with": _place(_own_start(teacher))}
    return found


def _own_start(teacher: Teacher) -> str | None:
    """What a teacher that was trained here began with, as far as this recipe says."""
    student = teacher.overrides.get("student")
    found = student.get("weights") if isinstance(student, Mapping) else None
    return found if isinstance(found, str) else None


def _results(run: Run) -> dict[str, Any]:
    """Row -> model and, for each part, top-1 with the pictures that it is of and its 95 % interval."""
    found = {}
    for key, _ in ROWS:
        row = run.summary.get(key)
        if not isinstance(row, Mapping):
            continue
        found[key] = {"model": row.get("model")}
        for part in ("val", "test"):
            top1, num = row.get(f"{part}_top1"), run.data.get(f"num_{part}")
            if isinstance(top1, float) and isinstance(num, int) and num > 0 and 0 <= top1 <= 1:
                low, high = share_interval(round(top1 * num), num)
                found[key][part] = {"top1": top1, "num_pictures": num, "low": low, "high": high}
    return found


def _licences(recipe: Recipe) -> Iterator[str]:
    """A sentence for all weights of others that this student has learned from, or begun with."""
    for who, network, weights in _named(recipe):
        what = f"{who} {network.model}, {_place(weights)}"
        library = weights.partition(":")[0]
        if weights.startswith(HUB):
            yield f"{what}: its page on the hub says under which licence."
        elif not _PUBLISHED.fullmatch(weights):
            yield f"{what}: weights from a file or run, whose licence is not known here."
        elif known := _published_licence(network.model, weights):
            yield f"{what}: {library} gives the licence {known}."
        else:
            yield f"{what}: {library} does not say under which licence these weights are."


def _named(recipe: Recipe) -> Iterator[tuple[str, Network, str]]:
    for who, network in (("the student", recipe.student), ("its peer", recipe.peer)):
        if network is not None and network.weights is not None:
            yield f"{who} began with", network, network.weights
    for teacher in taught_by(recipe).values():
        while teacher.teacher is not None:  # of a chain, only the first can have weights of others
            teacher = teacher.teacher
        if teacher.weights not in ("train", "random"):
            yield "the teacher is", teacher, teacher.weights
        elif teacher.weights == "train" and (start := _own_start(teacher)) is not None:
            yield "the teacher began with", teacher, start


def _published_licence(model: str, weights: str) -> str | None:
    return next((one.license for one in published_weights(model) if one.source == weights), None)


def _place(text: str | None) -> str | None:
    """A name that others know as it is; of a file or folder its last part: the rest is about this machine."""
    if text is None or _PUBLISHED.fullmatch(text):
        return text
    return Path(text).name if "/" in text or text.startswith("~") else text


def _without_places(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _without_places(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    is_place = isinstance(value, str) and (key in ("root", "folder", "weights") or value.startswith(("/", "~", "./", "../")))
    return _place(value) if is_place else value
