"""What stands below a report's numbers: in which values the recipes differ, and on what the runs were made."""

from __future__ import annotations

from typing import Any

from distill.recipe_files import differences
from distill.report.comparison import Comparison
from distill.report.runs import Run

_ABSENT = "-"


def recipe_differences(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, cells): a line for each value that is not the same in all students' recipes, a column for each student. What teachers have in common
    is no difference to students without one."""
    recipes = [row.student.runs[0].recipe for row in comparison.rows]
    paths = {line.partition(": ")[0]: None for recipe in recipes[1:] for line in differences(recipes[0], recipe)}
    values = [recipe.model_dump(mode="json") for recipe in recipes]
    taught = [value["teacher"] is not None for value in values]
    lines = []
    for path in sorted(paths.keys() - {"seed", "teacher"}):
        cells = [_shown(value, path) for value in values]
        counted = [cell for cell, is_taught in zip(cells, taught, strict=True) if is_taught or not path.startswith("teacher.")]
        if len(set(counted)) > 1:
            lines.append([path, *cells])
    if len(set(taught)) > 1:
        lines.append(["teacher", *("yes" if is_taught else "no" for is_taught in taught)])
    return ["", *(row.student.name for row in comparison.rows)], sorted(lines)


def conditions(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, cells): hardware and versions, a column for each kind that there is."""
    kinds: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in comparison.runs:
        kinds.setdefault(tuple(_facts(run)), []).append(run)
    heading = ["", *(f"{len(runs)} run{'s' if len(runs) > 1 else ''}, such as {runs[0].name}" for runs in kinds.values())]
    facts = [dict(kind) for kind in kinds]
    names = list(dict.fromkeys(name for kind in facts for name in kind))
    return heading, [[name, *(kind.get(name, _ABSENT) for kind in facts)] for name in names]


def _facts(run: Run) -> list[tuple[str, str]]:
    found = run.environment
    versions = found.get("versions")
    plain = {name.replace("_", " "): found.get(name) for name in ("processor", "num_cores", "device", "precision", "num_processes", "python")}
    plain |= versions if isinstance(versions, dict) else {}
    return [(name, _ABSENT if value is None else str(value)) for name, value in plain.items()]


def _shown(value: Any, path: str) -> str:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return _ABSENT if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
