"""Teachers that distill has trained itself: each trained once, kept under a key made from everything that decides it, and found again."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from distill import record
from distill.build.check import find_problems
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs
from distill.errors import DataError, RecipeError
from distill.places import cache_folder
from distill.recipe import Recipe
from distill.recipe_files import fingerprint, read_draft, to_yaml
from distill.recipe_teachers import assistant_recipe, taught_by, with_one_teacher
from distill.report.console import duration
from distill.resolve import Catalogue
from distill.running import Job, status_of
from distill.training_run import TeacherWeights, train_run

_FORMAT = "1"  # part of the key: raise it when the same recipe would give another teacher
_SHARED_DATA = ("source", "root", "image_size", "val_fraction", "view_seed", "arguments", "augment", "workers", "on_bad_image")
_SHARED_TRAIN = ("checkpoint_every_minutes", "checkpoint_every_steps", "keep_checkpoints")


@dataclass(frozen=True)
class TeacherPlan:
    """What it takes to have a teacher of our own making."""

    recipe: Recipe  # that trains it
    summary: dict[str, Any] | None  # of that teacher, if it is there
    costs: Mapping[str, Costs]  # of "student", which it is when it is trained, and of what teaches it
    teachers: Mapping[str, TeacherPlan] = field(default_factory=dict)  # by role, of what teaches it, where it is still to be trained
    keeps_answers: bool = False  # whether what teaches it is asked once for each view


def teacher_recipe(recipe: Recipe, catalogue: Catalogue) -> Recipe:
    """The recipe that trains this recipe's teacher: its own, on this recipe's data, with this recipe's `teacher` section as the student. Of an
    assistant, this recipe's losses and schedule."""
    teacher = recipe.teacher
    if teacher.teacher is not None:
        return assistant_recipe(recipe)
    network = teacher.model_dump(include={"model", "norm", "stem", "arguments", "features", "mean", "std"})
    data = recipe.data.model_dump(include=set(_SHARED_DATA))
    shared: dict[str, Any] = {"student": network, "data": data, "train": recipe.train.model_dump(include=set(_SHARED_TRAIN))}
    shared |= {"runs_dir": recipe.runs_dir, "deterministic": recipe.deterministic}
    try:
        draft = read_draft(teacher.recipe)
    except RecipeError as error:
        raise RecipeError(f"the recipe that trains the teacher (recipe): {error}") from None
    draft = draft.merged(shared, "the recipe that it teaches in")
    draft = draft.merged(teacher.overrides, "teacher.overrides")
    return draft.finish(find_problems(draft.values, catalogue))


def maker_recipes(recipe: Recipe, catalogue: Catalogue) -> dict[str, Recipe]:
    """role -> the recipe that trains it, of each teacher of this recipe that is of our own making. Raises RecipeError for one that is wrong."""
    made = [role for role, teacher in taught_by(recipe).items() if teacher.weights == "train"]
    return {role: teacher_recipe(with_one_teacher(recipe, role), catalogue) for role in made}


def check_makers(recipe: Recipe, catalogue: Catalogue) -> None:
    """Raises RecipeError where a recipe that trains a teacher, or what teaches that one, is not there or is wrong."""
    for maker in maker_recipes(recipe, catalogue).values():
        check_makers(maker, catalogue)


def makers_of(plans: Mapping[str, TeacherPlan]) -> Iterator[Recipe]:
    """The recipes of the teachers that are to be trained, in that order."""
    for plan in plans.values():
        if plan.summary is None:
            yield from makers_of(plan.teachers)
            yield plan.recipe


class TeacherStore:
    """A folder with one run folder per trained teacher. Only whole ones are ever seen under their final name."""

    def __init__(self, folder: Path | None = None):
        """folder: by default $DISTILL_CACHE/teachers, else ~/.cache/distill/teachers."""
        self.folder = folder or cache_folder("teachers")

    def path(self, recipe: Recipe, source: DataSource) -> Path:
        """Where the teacher that this recipe makes of this data is kept, whether it is there or not."""
        key = hashlib.sha256(repr((_FORMAT, fingerprint(recipe), source.fingerprint())).encode()).hexdigest()
        return self.folder / f"{recipe.student.model.replace('/', '-')}-{key[:16]}"

    def find(self, path: Path) -> dict[str, Any] | None:
        """The summary of a teacher that is there."""
        summary = record.read_json(path / record.SUMMARY_FILE)
        is_whole = isinstance(summary.get("created"), str) and "val_top1" in own_row(summary) and (path / record.WEIGHTS_FILE).is_file()
        return summary if is_whole else None

    def kept(self, recipe: Recipe, source: DataSource, job: Job) -> dict[str, tuple[Path, dict[str, Any] | None]]:
        """role -> (where it is kept, its summary if it is there) of each teacher of this recipe that is of our own making."""
        makers = maker_recipes(recipe, job.catalogue)
        return {role: (path := self.path(maker, source), self.find(path)) for role, maker in makers.items()}

    def get_or_train(self, plan: TeacherPlan, source: DataSource, job: Job) -> TeacherWeights:
        """The teacher, trained first if it is not there, and before it what teaches it; another job that is training it is waited for."""
        path = self.path(plan.recipe, source)
        with self._locked(path, job):
            summary = self._agreed(path, job)
            if summary is None:
                summary = self._train(path, plan, source, job)
            elif job.is_main:
                job.console.print(f"teacher: {plan.recipe.student.model} trained on {summary['created'][:10]} is used again ({path})")
        before = [*summary.get("chain", []), summary["teacher"]] if "distilled" in summary else []
        return TeacherWeights(path / record.WEIGHTS_FILE, own_row(summary)["val_top1"], before)

    def get_or_train_all(self, recipe: Recipe, plans: Mapping[str, TeacherPlan], source: DataSource, job: Job) -> dict[str, TeacherWeights]:
        """By role, each teacher of this recipe that is of our own making. Raises DataError for one that was there at first, and is gone."""
        for role, teacher in taught_by(recipe).items():
            if teacher.weights == "train" and role not in plans:
                raise DataError(f"{recipe.student.model} has to be trained after all, because its folder has been removed: start the job again")
        return {role: self.get_or_train(plan, source, job) for role, plan in plans.items()}

    def _agreed(self, path: Path, job: Job) -> dict[str, Any] | None:
        """What the first process finds, told to all: the folder may be seen later from another machine."""
        found = [self.find(path) if job.is_main else None]
        return broadcast_object_list(found)[0]

    def _train(self, path: Path, plan: TeacherPlan, source: DataSource, job: Job) -> dict[str, Any]:
        """Trains in a folder beside the final one, which is renamed when all is there. What an earlier job has left in it is gone on with: the lock
        says that none is at work, and the folder's name that it is the same teacher."""
        recipe, unfinished = plan.recipe, record.RunFolder(path.with_name(f"{path.name}.unfinished"))
        if job.is_main:
            shutil.rmtree(path, ignore_errors=True)  # without a whole summary it is no teacher
            unfinished.path.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(record.RECIPE_FILE, to_yaml(recipe))
        summary = self._agreed(unfinished.path, job)  # finished, and killed before it got its name
        if summary is None:
            weights = self.get_or_train_all(recipe, plan.teachers, source, job)
            with status_of(unfinished, job):
                name = f"{'assistant' if taught_by(recipe) else 'teacher'} {recipe.student.model}"
                summary = train_run(recipe, name, unfinished, source, job, costs=plan.costs, teacher_weights=weights)
        if job.is_main:
            unfinished.path.rename(path)
            shutil.rmtree(path / record.CHECKPOINTS, ignore_errors=True)
        job.state.wait_for_everyone()
        return summary

    @contextlib.contextmanager
    def _locked(self, path: Path, job: Job) -> Iterator[None]:
        """Holds the teacher's lock. All processes wait in short rounds, because a collective call that waits for hours would time out."""
        lock, waited = FileLock(path.with_name(f"{path.name}.lock")), 0
        if job.is_main:
            _make_folder(self.folder)
        while not broadcast_object_list([_try(lock) if job.is_main else None])[0]:
            if waited % 60 == 0:
                job.console.print(f"teacher: another job is training it ({path.name}); waiting, {duration(waited)} so far")
            job.stopper.check()
            time.sleep(2)
            waited += 2
        try:
            yield
        finally:
            lock.release()


def own_row(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the summary of a teacher says of itself: an assistant was distilled."""
    return summary.get("alone") or summary.get("distilled") or {}


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"can't make the folder for trained teachers, {folder}: {error.strerror}; set DISTILL_CACHE=FOLDER in the environment"
        ) from error
