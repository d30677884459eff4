"""Students compared: each row's accuracy over its seeds, and how much of it is more than the same student has alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill.errors import RecipeError
from distill.report.runs import Run
from distill.report.statistics import (
    Difference,
    Interval,
    PairedDifference,
    holm,
    mean_interval,
    paired_difference,
    paired_seeds,
    sampling_error,
    unpaired_seeds,
)
from distill.report.students import Student, group, require_same_data
from distill.suggestion import did_you_mean


@dataclass(frozen=True)
class Row:
    """One student. Accuracies are of the last epoch, fractions; a value that no run has is None."""

    student: Student
    top1: Interval  # on test
    reference: Student | None  # what it is compared with: the same student alone, or the one that was asked for; None without
    difference: Difference | None  # of test top-1 to the reference
    adjusted_p: float  # Holm's, over all rows; NaN where there is none
    pictures: PairedDifference | None  # where there is one seed, over its test pictures
    adjusted_pictures_p: float  # Holm's, over all rows of one seed
    is_reference: bool  # whether the others are compared with it because that was asked for
    sampling: float  # standard error of the difference from the drawing of the test pictures; NaN where it is not known
    gap_closed: float | None  # the share of the teacher's lead over the student alone that it has made up
    best: tuple[float, float] | None  # mean over seeds of the best epoch on val, and of val top-1 there
    means: dict[str, float | None]  # of the numbers in COLUMNS, over seeds


@dataclass(frozen=True)
class Comparison:
    """rows: the students alone first. teachers: model -> mean test top-1. notes: what the person should know, in sentences."""

    rows: list[Row]
    teachers: dict[str, float]
    num_test: int
    notes: list[str]

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.student.runs]


# What is averaged over seeds: (where in the student's part of the summary) -> its name in tables.
COLUMNS = {
    "agreement": "agrees with teacher",
    "agreement_on_mistakes": "on its mistakes",
    "kl": "KL to teacher",
    "test_ece": "ECE",
    "test_nll": "NLL",
    "test_brier": "Brier",
    "test_top5": "top-5",
    "num_parameters": "parameters",
    "gmacs": "GMACs",
    "images_per_second": "images/s",
    "latency_ms": "ms, one picture",
    "seconds": "training time",
}


def compare(runs: Sequence[Run], against: str | None = None) -> Comparison:
    """against: the name of the row that the others are compared with; None for each student alone.

    Raises DataError where runs were tested on different pictures, RecipeError for a row that is not there.
    """
    students, notes = group(runs)
    every = [run for student in students for run in student.runs]
    require_same_data(every)
    chosen = _chosen(students, against)
    rows = [_row(student, chosen or _control(student, students), students) for student in students]
    adjusted = holm([row.difference.p_value if row.difference else math.nan for row in rows])
    over_pictures = holm([row.pictures.p_value if row.pictures else math.nan for row in rows])
    rows = [
        replace(row, adjusted_p=p_value, adjusted_pictures_p=of_pictures, is_reference=row.student is chosen)
        for row, p_value, of_pictures in zip(rows, adjusted, over_pictures, strict=True)
    ]
    notes += [note for run in every for note in run.notes] + _about_conditions(every)
    return Comparison(rows, _teachers(every), int(every[0].data.get("num_test", 0)), list(dict.fromkeys(notes)))


def difference_of(first: Student, second: Student) -> Difference:
    """Of test top-1: paired over the seeds that both have, if these are two at least or all that one of them has; else by Welch's test."""
    ours, theirs = first.by_seed, second.by_seed
    common = sorted(ours.keys() & theirs.keys())
    if len(common) >= 2 or len(common) == min(len(ours), len(theirs)) == 1:
        return paired_seeds(*([_top1(runs[seed]) for seed in common] for runs in (ours, theirs)))
    return unpaired_seeds(*([_top1(run) for run in student.runs] for student in (first, second)))


def _row(student: Student, reference: Student | None, students: Sequence[Student]) -> Row:
    if reference is student:
        reference = None
    control, top1 = _control(student, students), mean_interval([_top1(run) for run in student.runs])
    difference = difference_of(student, reference) if reference else None
    pictures, sampling = _over_pictures(student, reference, difference) if reference else (None, math.nan)
    means = {column: _mean(student.runs, column) for column in COLUMNS} | (_fidelity_alone(student, students) if student.is_alone else {})
    gap_closed = _gap_closed(student, control)
    return Row(student, top1, reference, difference, math.nan, pictures, math.nan, False, sampling, gap_closed, _best(student), means)


def _over_pictures(student: Student, reference: Student, difference: Difference) -> tuple[PairedDifference | None, float]:
    seeds = sorted(student.by_seed.keys() & reference.by_seed.keys()) if difference.is_paired else []
    ours, theirs = (
        np.stack([run.is_right for run in ([one.by_seed[seed] for seed in seeds] if seeds else one.runs)]) for one in (student, reference)
    )
    return paired_difference(ours[0], theirs[0]) if len(seeds) == 1 else None, sampling_error(ours, theirs)


def _control(student: Student, students: Sequence[Student]) -> Student | None:
    return None if student.is_alone else next((other for other in students if other.key == student.control_key), None)


def _chosen(students: Sequence[Student], name: str | None) -> Student | None:
    if name is None:
        return None
    for student in students:
        if student.name == name:
            return student
    names = [student.name for student in students]
    raise RecipeError(f"--against {name}: there is no such row{did_you_mean(name, names)}; there are: {', '.join(names)}")


def _gap_closed(student: Student, control: Student | None) -> float | None:
    """Over the seeds that both have, where they share some; None if the teacher is not ahead of the student alone."""
    taught = [run for run in student.runs if run.teacher]
    if control is None or not taught:
        return None
    common = student.by_seed.keys() & control.by_seed.keys()
    ours, theirs = ([_top1(run) for run in one.runs if not common or run.seed in common] for one in (student, control))
    teacher = float(np.mean([run.teacher["test_top1"] for run in taught]))
    gap = teacher - float(np.mean(theirs))
    return (float(np.mean(ours)) - float(np.mean(theirs))) / gap if gap > 0 else None


def _best(student: Student) -> tuple[float, float] | None:
    found = [run.best for run in student.runs]
    if not found or None in found:
        return None
    epochs, values = zip(*found, strict=True)
    return float(np.mean(epochs)), float(np.mean(values))


def _mean(runs: Sequence[Run], column: str) -> float | None:
    values = [(run.summary if column == "seconds" else run.row).get(column) for run in runs]
    known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return float(np.mean(known)) if len(known) == len(values) else None


def _fidelity_alone(student: Student, students: Sequence[Student]) -> dict[str, float | None]:
    """How often the student alone says what the others' teacher says: so much agreement needs no teacher. Empty unless there is one teacher."""
    taught = [run for other in students for run in other.runs if run.teacher]
    answers = [run.teacher_predictions for run in taught]
    if not taught or any(one is None or np.any(one != answers[0]) for one in answers):
        return {}
    teacher, labels = answers[0], taught[0].labels
    same = np.stack([run.predictions == teacher for run in student.runs])
    wrong = teacher != labels
    return {"agreement": float(same.mean()), "agreement_on_mistakes": float(same[:, wrong].mean()) if wrong.any() else None}


def _teachers(runs: Sequence[Run]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run.teacher:
            scores.setdefault(run.teacher["model"], []).append(run.teacher["test_top1"])
    return {model: float(np.mean(values)) for model, values in scores.items()}


def _about_conditions(runs: Sequence[Run]) -> list[str]:
    """Runs of one table should have been made alike; sentences where they were not."""
    notes = []
    for what, value in (
        ("precision", lambda run: run.environment.get("precision")),
        ("device", lambda run: run.environment.get("device")),
        ("number of processes", lambda run: run.environment.get("num_processes")),
        ("version of torch", lambda run: (run.environment.get("versions") or {}).get("torch")),
    ):
        found: dict[Any, Run] = {}
        for run in runs:
            found.setdefault(value(run), run)
        if len(found) > 1:
            said = ", ".join(f"{kind} ({run.name})" for kind, run in found.items())
            notes.append(f"not all runs have the same {what}: {said}")
    for model in dict.fromkeys(run.teacher["model"] for run in runs if run.teacher):
        scores = {run.teacher["test_top1"] for run in runs if run.teacher.get("model") == model}
        if len(scores) > 1:
            notes.append(f"the teacher {model} was not the same in all runs: its test top-1 goes from {min(scores):.2%} to {max(scores):.2%}")
    return notes


def _top1(run: Run) -> float:
    return float(run.row["test_top1"])
