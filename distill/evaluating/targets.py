"""What is scored: a network of a finished run or of a file, with the recipe that says its model, data and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill import record
from distill.build.check import find_problems
from distill.errors import DataError, RecipeError
from distill.evaluating.options import Words, is_file
from distill.recipe import Network, Recipe
from distill.recipe_files import Draft, load_recipe, read_draft
from distill.report.runs import Run, read_run
from distill.resolve import Catalogue


@dataclass(frozen=True)
class Target:
    """One network before it is built. `run`: where its recipe is from, if that is a run; `file`: weights that were named, if any."""

    name: str  # as the person wrote it
    role: str
    recipe: Recipe  # with the changed data
    own: Recipe  # with the data that it was trained on
    run: Run | None
    file: Path | None = None

    @property
    def network(self) -> Network:
        """The recipe's section on it."""
        return self.own.teacher if self.role == "teacher" else self.own.student

    @property
    def has_own_data(self) -> bool:
        """Whether source and arguments are those that it was trained on; root, size and workers may differ."""
        return (self.recipe.data.source, self.recipe.data.arguments) == (self.own.data.source, self.own.data.arguments)


def read_targets(words: Words, catalogue: Catalogue) -> list[Target]:
    """Raises RecipeError or DataError for a target that can't be scored."""
    files = [is_file(target) for target in words.targets]
    if words.recipe is not None and not any(files):
        raise RecipeError(f"--recipe {words.recipe} is for a weight file; a run has its own recipe, and data.KEY=VALUE changes its data")
    targets = []
    for name, is_weights in zip(words.targets, files, strict=True):
        path = Path(name).expanduser()
        if not path.exists():
            raise DataError(f"{name}: there is no such folder or file; name a finished run's folder, such as runs/r50_to_r18-seed0, or a weight file")
        if is_weights and words.recipe is None:
            hint = f"; or name the run itself: distill eval {path.parent}" if (path.parent / record.RECIPE_FILE).is_file() else ""
            raise RecipeError(f"{name} is a file, which does not say how its pictures were made: add --recipe NAME (or a run's folder){hint}")
        target = _from_recipe(name, path, words, catalogue) if is_weights else _from_run(name, read_run(path), words, catalogue)
        _require_teacher(target)
        targets.append(target)
    return targets


def _from_run(name: str, run: Run, words: Words, catalogue: Catalogue) -> Target:
    recipe = _changed(run.path / record.RECIPE_FILE, words.overrides, catalogue, run)
    return Target(name, words.role, recipe, run.recipe, run)


def _from_recipe(name: str, path: Path, words: Words, catalogue: Catalogue) -> Target:
    folder = Path(words.recipe).expanduser()
    run = read_run(folder) if (folder / record.SUMMARY_FILE).is_file() else None
    source = words.recipe if run is None else run.path / record.RECIPE_FILE
    own = load_recipe(source) if run is None else run.recipe
    return Target(name, words.role, _changed(source, words.overrides, catalogue, run), own, run, path)


def _changed(source: str | Path, overrides: Sequence[str], catalogue: Catalogue, run: Run | None) -> Recipe:
    """The recipe with other data. Root and arguments of a source mean nothing to another one; the size is still the network's."""
    draft, named = read_draft(source), next((word.partition("=")[2] for word in reversed(overrides) if word.startswith("data.source=")), None)
    before = draft.values.get("data") or {}
    if named is not None and named != before.get("source", "sample"):
        size = None if run is None else run.data.get("image_size")
        removed = [f"~data.{key}" for key in ("root", "arguments", *(["image_size"] if size else [])) if key in before]
        overrides = [*removed, *([f"data.image_size={size}"] if size else []), *overrides]
    draft = read_draft(source, overrides)
    return draft.finish(_data_problems(draft, catalogue))


def _data_problems(draft: Draft, catalogue: Catalogue) -> list:
    """Losses and trackers play no part here, and may be of a plug-in that is not at hand."""
    return [problem for problem in find_problems(draft.values, catalogue) if problem.path.partition(".")[0] == "data"]


def _require_teacher(target: Target) -> None:
    if target.role != "teacher":
        return
    if target.own.teachers is not None:
        raise RecipeError(f"--role teacher: {target.name} has several teachers; name the folder or the weight file of one of them as the target")
    if target.own.peer is not None:
        raise RecipeError(f"--role teacher: {target.name} learned from its peer; name its weights as the target: {target.name}/{record.PEER_FILE}")
    if target.own.method == "ema_teacher":
        raise RecipeError(f"--role teacher: {target.name} learned from the average of its own weights, which is the student: leave out --role")
    if target.own.teacher is None:
        raise RecipeError(f"--role teacher: {target.name} is of a student alone, it has no teacher; leave out --role")
    if target.file is None and target.run is not None and target.own.teacher.num_classes not in (None, target.run.data.get("num_classes")):
        raise DataError(
            f"{target.name}: its teacher knows {target.own.teacher.num_classes} classes, not these {target.run.data.get('num_classes')}: "
            "it taught by its features, and its answers can't be scored on these pictures"
        )
