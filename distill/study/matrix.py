"""From what is to be compared to the runs that it takes: the cells of a matrix, each a plain `distill train` command."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import record
from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_files import Draft, fingerprint, list_recipes, load_recipe, read_draft
from distill.resolve import Catalogue
from distill.run_folders import changes, is_finished
from distill.student_alone import control_recipe, is_alone
from distill.study.wish import Wish

_MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One run."""

    row: str  # the student that it is a run of
    base: str  # the recipe that the command names
    overrides: tuple[str, ...]
    seed: int
    draft: Draft
    recipe: Recipe
    plugins: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.recipe.runs_dir) / self.recipe.run_name

    @property
    def arguments(self) -> list[str]:
        """Of `distill train`. With --resume: the same words begin the run, go on with it, or find it finished."""
        plugins = [word for plugin in self.plugins for word in ("--plugin", plugin)]
        return ["--recipe", self.base, *self.overrides, *plugins, "--resume"]

    @property
    def state(self) -> str:
        """ "finished", "begun", "new", or "other": a run of another recipe has the name."""
        if not (self.folder / record.RECIPE_FILE).is_file():
            return "new"
        if changes(self.folder, self.recipe) != []:
            return "other"
        return "finished" if is_finished(self.folder) else "begun"


def cells(wish: Wish, catalogue: Catalogue) -> list[Cell]:
    """All runs, the students alone first, seed by seed. Raises RecipeError for a recipe that can't be read or a name that two rows would have."""
    if len(set(wish.seeds)) != len(wish.seeds) or not wish.seeds:
        raise RecipeError("the seeds must be one or more different numbers")
    rows = list(_rows(wish, catalogue))
    alone = list(_alone(rows))
    names = [name for name, _, _ in [*alone, *rows]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"two rows would be called {twice[0]}; give the recipes or variants other names")
    if len(names) * len(wish.seeds) > _MOST_CELLS:
        raise RecipeError(f"{len(names)} rows with {len(wish.seeds)} seeds are {len(names) * len(wish.seeds):,} runs; {_MOST_CELLS:,} is the most")
    made = [_cell(row, seed, catalogue) for seed in wish.seeds for row in [*alone, *rows]]
    return sorted(made, key=lambda cell: not is_alone(cell.recipe))


def command(cell: Cell, launcher: Sequence[str] = ()) -> str:
    """The command of a cell for a shell; launcher: the words before distill/run.py, such as accelerate launch."""
    words = [*launcher, "distill/run.py"] if launcher else ["distill", "train"]
    return shlex.join([*words, *cell.arguments])


Row = tuple[str, str, tuple[str, ...]]  # (name, recipe, overrides)


def _rows(wish: Wish, catalogue: Catalogue) -> Iterator[Row]:
    for name, student, teacher in itertools.product(wish.recipes, wish.students or [None], wish.teachers or [None]):
        base = [*wish.overrides]
        base += [f"student.model={student}"] if student else []
        base += [f"teacher.model={teacher}"] if teacher else []
        draft = read_draft(name, base)
        if teacher and draft.values.get("chain"):
            raise RecipeError(f"{draft.name} has a chain, whose first network is the teacher; give other chains as variants instead of teachers")
        words = [draft.name] + [part.rpartition("/")[2] for part in (teacher, student) if part]
        for suffix, overrides in _variants(wish, name, base, catalogue):
            yield _slug("-".join([*words, *suffix])), name, (*base, *overrides)


def _variants(wish: Wish, name: str, base: Sequence[str], catalogue: Catalogue) -> Iterator[tuple[list[str], list[str]]]:
    """(what is added to the row's name, overrides)."""
    if wish.losses:
        own = load_recipe(name, base).losses
        yield from (([loss], _loss_overrides(loss, own, catalogue)) for loss in wish.losses)
    for variant, overrides in (wish.variants or {}).items():
        yield [variant], list(overrides)
    if wish.ablate or not (wish.losses or wish.variants):
        yield [], []
    if wish.ablate:
        own = load_recipe(name, base).losses
        others = [label for label, entry in own.items() if entry.name(label) != "ce"]
        if len(others) < 2:
            raise RecipeError(f"{name} has {len(others)} loss(es) beside ce; leaving one out at a time takes two at least")
        yield from (([f"without_{label}"], [f"~losses.{label}"]) for label in others)


def _loss_overrides(loss: str, own: Mapping[str, Any], catalogue: Catalogue) -> list[str]:
    """The losses of losses/NAME in place of the recipe's; of a recipe that has no other loss, its own stay as they are."""
    if set(own) - {"ce"} == {loss}:
        return []
    shipped = f"losses/{loss}"
    if shipped in list_recipes():
        wanted = load_recipe(shipped).losses
        return _instead(own, {label: _written(entry.model_dump(mode="json")) for label, entry in wanted.items()})
    catalogue.get("losses", loss)  # a plug-in's, at the weight 1
    return _instead(own, {"ce": {"weight": 1.0}, loss: {"weight": 1.0}})


def _instead(own: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [*(f"~losses.{label}" for label in own), *(f"losses.{label}={json.dumps(entry)}" for label, entry in wanted.items())]


def _alone(rows: Sequence[Row]) -> Iterator[Row]:
    """Each student alone that the rows need, once."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for _, base, overrides in rows:
        recipe = load_recipe(base, overrides)
        control = control_recipe(recipe)
        if is_alone(recipe):
            continue
        losses = {label: _written(entry.model_dump(mode="json")) for label, entry in control.losses.items()}
        words = ["teacher=null"] if recipe.teacher is not None else []
        words += ["peer=null"] if recipe.peer is not None else []
        words += ["method=distill"] if recipe.method != "distill" else []
        words += ["teachers=null"] if recipe.teachers is not None else []
        words += ["answers=mean"] if recipe.answers != "mean" else []
        words += ["chain=null"] if read_draft(base, overrides).values.get("chain") else []
        words += ["data.labels=given"] if recipe.data.labels != "given" else []
        words += _instead(recipe.losses, losses)
        found.setdefault(fingerprint(control), (base, (*overrides, *words)))
    for number, (base, overrides) in enumerate(found.values(), start=1):
        stem = load_recipe(base, overrides).student.model.rpartition("/")[2]
        yield _slug(f"{read_draft(base).name}-{stem}-alone" + (f"-{number}" if len(found) > 1 else "")), base, overrides


def _written(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


def _cell(row: Row, seed: int, catalogue: Catalogue) -> Cell:
    cell = _named(f"{row[0]}-seed{seed}", row, seed, catalogue)
    if is_alone(cell.recipe) and cell.state == "new" and (found := _trained(cell.recipe)) is not None:
        return _named(found.name, row, seed, catalogue)
    return cell


def _named(run_name: str, row: Row, seed: int, catalogue: Catalogue) -> Cell:
    name, base, overrides = row
    words = (*overrides, f"seed={seed}", f"run_name={run_name}", "control=false")
    draft = read_draft(base, words)
    return Cell(name, base, words, seed, draft, draft.finish(), tuple(catalogue.plugins))


def _trained(recipe: Recipe) -> Path | None:
    """The student alone that `distill train` has trained beside its own run."""
    runs = record.finished_runs(Path(recipe.runs_dir))
    return next((path for path, summary in runs if summary.get("seed") == recipe.seed and "alone" in summary and changes(path, recipe) == []), None)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
