"""Runs put together that differ by nothing but their seed: each group is one student, a row of the comparison."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill.errors import DataError
from distill.recipe_files import differences, fingerprint
from distill.report.runs import Run, read_run, sibling
from distill.student_alone import control_recipe

_SEED = re.compile(r"-seed\d+(?=-|$)")
_ALONE = " alone"
_MOST_IN_A_NAME = 3  # differing values that a name is made of
_SAME_DATA = ("fingerprint", "num_classes", "num_train", "num_val", "num_test")


@dataclass(frozen=True)
class Student:
    """One student: its runs by seed, of equal recipes."""

    name: str
    key: str  # of the recipe but for its seed
    runs: list[Run]

    @property
    def is_alone(self) -> bool:
        return self.runs[0].is_alone

    @property
    def control_key(self) -> str:
        """The key of the same student alone."""
        return _key(self.runs[0], is_control=True)

    @property
    def by_seed(self) -> dict[int, Run]:
        return {run.seed: run for run in self.runs}


def group(runs: Sequence[Run]) -> tuple[list[Student], list[str]]:
    """(the students alone first, then the others in the order of their runs; sentences about what was left out).

    A run that was trained twice with the same seed counts once. A student alone that lies beside a run and was not named is added.
    """
    notes: list[str] = []
    groups: dict[str, dict[int, Run]] = {}
    for run in [*runs, *_controls(runs)]:
        first = groups.setdefault(_key(run), {}).setdefault(run.seed, run)
        if first is not run:
            notes.append(f"{run.path} is left out: {first.path} is the same recipe with the same seed")
    ordered = sorted(groups.items(), key=lambda item: not next(iter(item[1].values())).is_alone)
    found = [(key, [by_seed[seed] for seed in sorted(by_seed)]) for key, by_seed in ordered]
    names = _names([members for _, members in found])
    return [Student(name, key, members) for name, (key, members) in zip(names, found, strict=True)], notes


def require_same_data(runs: Sequence[Run]) -> None:
    """Raises DataError, with the difference, where two runs were not tested on the same pictures."""
    first = runs[0]
    for run in runs[1:]:
        said = [
            f"{name}: {first.data.get(name)} and {run.data.get(name)}"
            for name in ("source", *_SAME_DATA[1:], "note")
            if first.data.get(name) != run.data.get(name)
        ]
        both = [one.data.get("fingerprint") for one in (first, run)]
        if None in both:  # of an older format
            is_same = all(first.data.get(name) == run.data.get(name) for name in _SAME_DATA[1:])
            is_same = is_same and first.labels.tolist() == run.labels.tolist()
        else:
            is_same = both[0] == both[1]
        if not is_same:
            what = "; ".join(said) or "the same numbers of pictures, but other pictures or another split of them"
            raise DataError(f"{first.path} and {run.path} have other data, so their accuracies can't be compared ({what})")


def _controls(runs: Sequence[Run]) -> Iterable[Run]:
    """The students alone that lie beside these runs."""
    there = {run.path.resolve() for run in runs}
    found = {path.resolve(): path for run in runs if not run.is_alone and (path := sibling(run)) is not None}
    return [read_run(path) for place, path in found.items() if place not in there]


def _key(run: Run, *, is_control: bool = False) -> str:
    recipe = control_recipe(run.recipe) if is_control else run.recipe
    return fingerprint(recipe.model_copy(update={"seed": 0}))


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each: its runs' without the seed; where two would be equal, with what differs in their recipes."""
    plain = _without_prefix([_plain_name(members[0]) for members in groups])
    names = []
    for name, members in zip(plain, groups, strict=True):
        twins = [others[0] for other, others in zip(plain, groups, strict=True) if other == name and others is not members]
        names.append(f"{name} ({_what_differs(members[0], twins)})" if twins else name)
    return [name if names.count(name) == 1 else f"{name} [{members[0].path}]" for name, members in zip(names, groups, strict=True)]


def _plain_name(run: Run) -> str:
    return f"{run.recipe.student.model}{_ALONE}" if run.is_alone else _SEED.sub("", run.name)


def _without_prefix(names: list[str]) -> list[str]:
    """r50_to_r18-kd, r50_to_r18-dkd -> kd, dkd."""
    words = [name.split("-") for name in dict.fromkeys(names) if not name.endswith(_ALONE)]
    if len(words) < 2:
        return names
    common = list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*(one[:-1] for one in words), strict=False)))
    prefix = "".join(f"{column[0]}-" for column in common)
    return [name.removeprefix(prefix) for name in names]


def _what_differs(run: Run, twins: Sequence[Run]) -> str:
    """Its own values where it differs from the others of its name."""
    paths = dict.fromkeys(line.partition(":")[0] for twin in twins for line in differences(twin.recipe, run.recipe) if not line.startswith("seed:"))
    values = [f"{path}={_value(run, path)}" for path in list(paths)[:_MOST_IN_A_NAME]]
    return ", ".join(values) or str(run.path)


def _value(run: Run, path: str) -> str:
    value = run.recipe.model_dump(mode="json")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "none" if value is None else str(value)
