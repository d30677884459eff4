"""Which folder a run gets: a new one, or that of a run which was not finished."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from distill import record
from distill.errors import DataError, RecipeError
from distill.recipe import Recipe
from distill.recipe_files import WHERE_WEIGHTS_ARE, differences, load_recipe
from distill.record import FolderInUseError, RunFolder

_BEFORE_TRAINING = {".lock", record.RECIPE_FILE, record.STATUS_FILE, record.ENVIRONMENT_FILE}


class FinishedError(Exception):
    """There is nothing to go on with: the run is finished."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is finished already"


def default_name(recipe: str, seed: int) -> str:
    """What a run is called whose recipe does not say, from the recipe's own name, which may hold anything that a file's name can."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', recipe).strip('-') or 'run'}-seed{seed}"


def claim_new(runs_dir: Path, base_name: str, recipe: Recipe, *, is_fixed: bool) -> RunFolder:
    """A folder for a new run, opened: `base_name`, else base_name-2, -3, ...; one in which nothing was trained yet is used again.

    Raises DataError if a run of this recipe is unfinished there, if the user fixed the name and there is a run of that name, or if the folder can't
    be had.
    """
    for path in _names(runs_dir, base_name):
        if folder := _opened_if_new(path, other_will_do=not is_fixed):
            return folder
        if is_unfinished(path) and (is_fixed or changes(path, recipe) == []) and not _is_held(path):
            raise DataError(f"{path} is not finished ({_state(path)}): add --resume to go on with it, or set run_name=OTHER, or remove the folder")
        if is_fixed:
            raise DataError(f"{path} holds a run already; set run_name=OTHER, or remove the folder")
    raise AssertionError("there is always another name")


def claim_next(runs_dir: Path, base_name: str) -> RunFolder:
    """A folder for a new run, opened: the first of these names at which there is none. Raises DataError if it can't be had."""
    return next(folder for path in _names(runs_dir, base_name) if (folder := _opened_if_new(path, other_will_do=True)))


def claim_unfinished(runs_dir: Path, base_name: str, recipe: Recipe) -> RunFolder | None:
    """The folder of an unfinished run of this recipe, opened; None if there is none that no other job holds."""
    for path in _runs(runs_dir, base_name):
        if is_unfinished(path) and changes(path, recipe) == []:
            try:
                return _opened(path)
            except FolderInUseError:
                continue
    return None


def claim_again(runs_dir: Path, base_name: str, recipe: Recipe, *, is_fixed: bool) -> RunFolder | None:
    """The folder of an unfinished run of this recipe, opened; None if there is none and a new one may be begun.

    Raises FinishedError if such a run is finished, and DataError if another job is at it. Where the user fixed the name: RecipeError if the run of
    that name has another recipe.
    """
    paths = [runs_dir / base_name] if is_fixed else _runs(runs_dir, base_name)
    same = [path for path in paths if changes(path, recipe) == []]
    unfinished = [path for path in same if is_unfinished(path)]
    for path in unfinished:
        try:
            return _opened(path)
        except FolderInUseError:
            if path == unfinished[-1]:
                raise
    for path in same:
        if is_finished(path):
            raise FinishedError(path)
    if is_fixed and is_unfinished(paths[0]):
        listed = "\n  ".join(changes(paths[0], recipe) or [f"its recipe can't be read: {_why_not(paths[0])}"])
        raise RecipeError(f"{paths[0]} was begun with another recipe, so it can't be gone on with:\n  {listed}\nset run_name=OTHER for a new run")
    return None


def open_run(path: Path, recipe: Recipe) -> RunFolder:
    """The folder of a run that is named, opened. Raises FinishedError, RecipeError if it has another recipe, or DataError if it can't be had.

    Weights may lie elsewhere now.
    """
    old = load_recipe(path)
    if changed := differences(old, recipe, apart_from=WHERE_WEIGHTS_ARE):
        raise RecipeError(f"{path} goes on with its own recipe; it can't change now:\n  " + "\n  ".join(changed))
    if recipe.run_name != old.run_name or recipe.runs_dir != old.runs_dir:
        raise RecipeError(f"{path} goes on in its own folder: leave out run_name and runs_dir")
    folder = _opened(path)
    if is_finished(path):
        folder.close()
        raise FinishedError(path)
    return folder


def named_run(name: str) -> Path:
    """The run folder that somebody has named in any way, without links in its path, and short where it is inside the working folder."""
    path, here = Path(name).expanduser(), Path.cwd()
    if not (path / record.RECIPE_FILE).is_file():
        what = "has no recipe.resolved.yaml, so it is no run's folder" if path.is_dir() else "is not there"
        raise RecipeError(f"--resume {name}: the folder {what}; to go on with the run of a recipe, say --recipe NAME --resume")
    path = path.resolve()
    return path.relative_to(here) if here in path.parents else path


def is_finished(path: Path) -> bool:
    """Whether a run came to its end here."""
    return record.read_json(path / record.STATUS_FILE).get("state") == "finished" and (path / record.SUMMARY_FILE).exists()


def is_unfinished(path: Path) -> bool:
    """Whether something was trained here that can go on: not in a run that is finished, and not in one whose loss was not finite."""
    if is_finished(path) or (path / record.DIVERGED_FILE).exists():
        return False
    return any((path / name).exists() for name in (record.METRICS_FILE, record.CHECKPOINTS))


def _names(runs_dir: Path, base_name: str) -> Iterator[Path]:
    yield runs_dir / base_name
    yield from (runs_dir / f"{base_name}-{number}" for number in itertools.count(2))


def _runs(runs_dir: Path, base_name: str) -> list[Path]:
    """The folders that are there under these names, the newest name first."""
    found = {path: re.fullmatch(rf"{re.escape(base_name)}(?:-(\d+))?", path.name) for path in (runs_dir.iterdir() if runs_dir.is_dir() else ())}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1] or 1), reverse=True)


def _opened_if_new(path: Path, *, other_will_do: bool) -> RunFolder | None:
    """The folder, if no run is in it; one that another job has just taken is none either, where another name will do."""
    if path.is_dir() and not all(entry.name in _BEFORE_TRAINING or re.fullmatch(r"\..*\.tmp", entry.name) for entry in path.iterdir()):
        return None
    try:
        return _opened(path)
    except FolderInUseError:
        if other_will_do:
            return None
        raise


def _opened(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.open()
    return folder


def changes(path: Path, recipe: Recipe) -> list[str] | None:
    """How this recipe differs from the one that the folder's run was begun with; None if that can't be read."""
    try:
        return differences(load_recipe(path), recipe) if (path / record.RECIPE_FILE).is_file() else None
    except RecipeError:
        return None


def _why_not(path: Path) -> str:
    """Why the recipe of the folder's run can't be read."""
    try:
        load_recipe(path / record.RECIPE_FILE)
    except RecipeError as error:
        return str(error).splitlines()[0]
    return "it has just changed"


def _is_held(path: Path) -> bool:
    try:
        _opened(path).close()
    except FolderInUseError:
        return True
    return False


def _state(path: Path) -> str:
    status = record.read_json(path / record.STATUS_FILE)
    return status.get("reason") or "it was killed"
