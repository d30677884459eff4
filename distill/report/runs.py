"""Finished runs as a comparison needs them, read from their folders. No torch; nothing in a folder is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from distill import record
from distill.errors import DataError, RecipeError
from distill.places import expanded
from distill.recipe import Recipe, what_is_wrong
from distill.recipe_files import load_recipe
from distill.student_alone import is_alone

_NEWEST_FORMAT = 2
_NEEDED, _TEACHER = ("test", "test_labels"), "test_teacher"


@dataclass(frozen=True)
class Run:
    """One finished run. `row` is the student's part of the summary, `teacher` the teacher's (empty without one, or where it knows other classes)."""

    path: Path
    summary: dict[str, Any] = field(repr=False)
    recipe: Recipe = field(repr=False)
    notes: list[str] = field(default_factory=list, compare=False, repr=False)  # what is not as it should be, each a sentence

    @property
    def name(self) -> str:
        return self.path.resolve().name  # the path may be "."

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def is_alone(self) -> bool:
        return is_alone(self.recipe)

    @property
    def row(self) -> dict[str, Any]:
        return self.summary["alone" if self.is_alone else "distilled"]

    @property
    def teacher(self) -> dict[str, Any]:
        found = self.summary.get("teacher")
        return found if isinstance(found, dict) and isinstance(found.get("model"), str) and _is_share(found.get("test_top1")) else {}

    @property
    def data(self) -> dict[str, Any]:
        return self.summary["data"]

    @property
    def class_names(self) -> list[str]:
        """Empty where the run does not say them."""
        found = self.data.get("class_names")
        return [str(name) for name in found] if isinstance(found, list) else []

    @property
    def cka(self) -> dict[str, float]:
        """By layer; empty without a teacher."""
        found = self.row.get("cka")
        return {layer: value for layer, value in found.items() if _is_number(value)} if isinstance(found, dict) else {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        return record.read_json(self.path / record.ENVIRONMENT_FILE)

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """The arrays of predictions.npz. Raises DataError if it is not one that a run wrote; never runs code from it."""
        return self._checked(read_arrays(self.path / record.PREDICTIONS_FILE, _NEEDED))

    @property
    def labels(self) -> np.ndarray:
        """[N], the class of each test picture."""
        return self._classes["test_labels"]

    @property
    def predictions(self) -> np.ndarray:
        """[N], the class that the student names for each test picture."""
        return self._classes["test"]

    @property
    def is_right(self) -> np.ndarray:
        """[N] bool, of each test picture."""
        return self.predictions == self.labels

    @property
    def teacher_predictions(self) -> np.ndarray | None:
        """[N], the class that the teacher names for each test picture; None where the run does not say."""
        return self._classes.get(_TEACHER)

    @cached_property
    def _classes(self) -> dict[str, np.ndarray]:
        """The arrays that every comparison needs: reading all takes twice as long."""
        return self._checked(read_arrays(self.path / record.PREDICTIONS_FILE, _NEEDED, (*_NEEDED, _TEACHER)))

    def _checked(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One row for each test picture, and labels that are numbers of classes."""
        labels = found["test_labels"]
        num = self.data.get("num_test", len(labels))
        rows = {array.shape for name, array in found.items() if name.startswith("test")}
        if rows != {(num,)} or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
            raise DataError(f"{self.path / record.PREDICTIONS_FILE} does not fit {record.SUMMARY_FILE}; remove that run's folder and train it again")
        return found

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; what can't be read, such as a line that was cut, is left out and noted."""
        try:
            lines = (self.path / record.METRICS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            self.notes.append(f"{self.path / record.METRICS_FILE} can't be read ({error.strerror}): no learning curve of it")
            return []
        events = [event for line in lines if (event := _event(line)) is not None]
        if len(events) < len(lines):
            self.notes.append(f"{self.path / record.METRICS_FILE}: {len(lines) - len(events)} line(s) of {len(lines)} can't be read and are left out")
        return events

    @property
    def best(self) -> tuple[int, float] | None:
        """(epoch, val top-1) of the best epoch on val, the first of equals; None without any."""
        epochs = [event for event in self.events if event.get("event") == "epoch"]
        scored = [(event["epoch"], event["val_top1"]) for event in epochs if all(_is_number(event.get(name)) for name in ("epoch", "val_top1"))]
        return max(scored, key=lambda pair: pair[1], default=None)


def read_runs(places: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """(finished runs, in the order given; sentences about what was left out). A place is a run's folder, or a folder of them.

    Raises DataError for a place that is not there, and if no finished run is left.
    """
    runs, (folders, notes) = {}, _folders(places)
    for folder in folders:
        if folder.resolve() in runs:
            continue
        if problem := _why_not(folder):
            notes.append(f"{folder} is left out: {problem}")
        else:
            runs[folder.resolve()] = read_run(folder)
    if not runs:
        raise DataError("\n".join(["there is no finished run to compare", *notes]))
    return list(runs.values()), notes


def read_run(path: Path) -> Run:
    """Raises DataError if it holds no finished run, or one that is damaged."""
    if problem := _why_not(path):
        raise DataError(f"{path}: {problem}")
    summary = record.read_json(path / record.SUMMARY_FILE)
    found, notes = summary.get("format"), []
    if isinstance(found, int) and found > _NEWEST_FORMAT:
        raise DataError(f"{path / record.SUMMARY_FILE} has format {found}, and {_NEWEST_FORMAT} is the newest known here; update distill")
    if found != _NEWEST_FORMAT:
        notes.append(f"{path} is of an older format: what it does not say is left empty; train it again to have it")
    run = Run(path, summary, _recipe(path, summary), notes)
    _check(run)
    return run


def sibling(run: Run) -> Path | None:
    """The folder of the student alone that the run was compared with, if it is still beside it."""
    alone = run.summary.get("alone")
    name = alone.get("run") if isinstance(alone, dict) else None
    path = run.path.parent / name if isinstance(name, str) and Path(name).name == name else None
    return path if path is not None and _why_not(path) is None else None


def read_arrays(path: Path, needed: Sequence[str] = (), wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """wanted: those to read if they are there; None for all. Raises DataError if the file is not one that a run wrote; never runs code from it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # np.load leaves a damaged file open
            found = {name: arrays[name] for name in arrays.files if wanted is None or name in wanted}
    except Exception as error:  # a damaged archive fails in many ways
        raise DataError(f"{path} is missing or damaged ({error}); remove that run's folder and train it again") from error
    if missing := [name for name in needed if name not in found]:
        raise DataError(f"{path} has no {', '.join(missing)} in it: it is not one that a run wrote")
    return found


def _folders(places: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """(the runs' folders that are named, or lie in a folder that is named; sentences about other things that runs/* may have named)."""
    folders, notes = [], []
    for place in places:
        folder = expanded(place)
        if not folder.exists():
            raise DataError(f"{place}: there is no such folder; name runs, such as runs/*")
        inside = [folder]
        if not _is_run(folder):
            inside = sorted(path for path in folder.iterdir() if path.is_dir() and _is_run(path)) if folder.is_dir() else []
        if not inside:
            notes.append(f"{place} is left out: {'no run is in this folder' if folder.is_dir() else 'it is a file, and no run'}")
        folders += inside
    return folders, notes


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (record.RECIPE_FILE, record.SUMMARY_FILE, record.STATUS_FILE))


def _why_not(path: Path) -> str | None:
    """Why it can't be compared; None if it is finished."""
    status = record.read_json(path / record.STATUS_FILE)
    if status.get("state") == "running":
        return "it is still going, or was killed; distill train --resume goes on with it"
    if status.get("state") not in (None, "finished"):
        return f"it is not finished ({status.get('reason') or status.get('state')})"
    if not (path / record.SUMMARY_FILE).is_file():
        return f"it has no {record.SUMMARY_FILE}: it is not finished, or no run's folder"
    return None


def _recipe(path: Path, summary: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(summary["recipe"]) if "recipe" in summary else load_recipe(path)
    except (ValidationError, RecipeError) as error:
        faults = [str(error)] if isinstance(error, RecipeError) else [f"{'.'.join(map(str, at))}: {words}" for at, words in what_is_wrong(error)]
        raise DataError(f"{path}: its recipe can't be read: {'; '.join(faults)}") from error


def _check(run: Run) -> None:
    """Raises DataError where the summary lacks what every comparison needs."""
    where, row = run.path / record.SUMMARY_FILE, run.summary.get("alone" if run.is_alone else "distilled")
    if not isinstance(row, dict) or not _is_share(row.get("test_top1")) or not isinstance(run.summary.get("data"), dict):
        raise DataError(f"{where} is damaged: the student's score on test is not in it; train it again")


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
