"""The main job: a teacher, the student alone, the distilled student, and the table that compares them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from distill import record
from distill.build.check import find_problems
from distill.build.source import open_source
from distill.checkpoints import CheckpointFolder
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs
from distill.engine.runtime import prepare_process, processes
from distill.engine.stopping import Stopper, end_with_launcher
from distill.errors import DistillError, RecipeError, StoppedError
from distill.machines import require_one_folder, require_same_pictures
from distill.preparation import Preparation, announce, prepare
from distill.recipe import Recipe
from distill.recipe_files import Draft, draft_of, read_draft, to_yaml
from distill.report.comparison import compare
from distill.report.console import make_console, print_result
from distill.report.html import page
from distill.report.runs import Run, read_run, read_runs
from distill.report.table import compare_runs, result_table, verdict
from distill.resolve import Catalogue
from distill.run_folders import FinishedError, claim_again, claim_new, claim_next, claim_unfinished, default_name, named_run, open_run
from distill.running import Job, as_data_error, status_of
from distill.teacher_store import TeacherStore, check_makers
from distill.training_run import train_run


def train(
    recipe: str | Path | Recipe | None = None, overrides: Sequence[str] = (), plugins: Sequence[str] = (), *, resume: bool | str | Path = False
) -> Run:
    """Does the whole job of a recipe, as `distill train` does, and returns the finished run: `.path` is its folder, `.summary` has its numbers as
    fractions, `.predictions` [N] are its answers on test.

    recipe: a name, a file, a run's folder, or what `load_recipe` returned. overrides: such as "train.epochs=1". plugins: files or modules with losses
    and sources of your own. resume: a run's folder, to go on with it (no recipe is needed then), or True, to go on with an unfinished run of this
    recipe if there is one. In several processes each calls it, and each gets the run.

    Raises DistillError: RecipeError, DataError, DivergedError, or StoppedError where somebody asked it to stop.
    """
    catalogue, run = Catalogue(plugins), None if isinstance(resume, bool) else named_run(str(resume))
    if recipe is None and run is None:
        raise RecipeError("which recipe? name one, or a run's folder to go on with")
    draft = draft_of(recipe, overrides) if isinstance(recipe, Recipe) else read_draft(run if recipe is None else recipe, overrides)
    path = run_job(draft, check(draft, catalogue), catalogue, resume=resume is True, run=run)
    return _from_first(lambda: read_run(path), is_first=processes().is_main_process)


def check(draft: Draft, catalogue: Catalogue) -> Recipe:
    """The valid recipe. Raises one RecipeError with everything that is wrong with it."""
    return draft.finish(find_problems(draft.values, catalogue))


def check_whole(draft: Draft, catalogue: Catalogue) -> Recipe:
    """As `check`, with the recipes that train its teachers: all that can be known before the data is opened."""
    recipe = check(draft, catalogue)
    check_makers(recipe, catalogue)
    return recipe


def run_job(draft: Draft, recipe: Recipe, catalogue: Catalogue, *, resume: bool = False, run: Path | None = None) -> Path:
    """Trains what is missing, compares, shows the result, and returns the run's folder.

    resume: to go on with an unfinished run of this recipe, if there is one. run: the folder to go on with.
    """
    prepare_process()
    state = processes()
    with Stopper(recipe.time_limit) as stopper:
        end_with_launcher()
        job = Job(catalogue, state, make_console(is_main=state.is_main_process), stopper)
        try:
            folder = _agree(lambda: _claim(draft, recipe, resume=resume, run=run), job)
        except FinishedError as finished:
            job.console.print(f"{finished}: nothing to do")
            _finish(finished.path, job)
            _show_result(record.read_json(finished.path / record.SUMMARY_FILE), finished.path, job)
            return finished.path
        if run is not None:  # named from wherever the person is now: the student alone is beside it
            recipe = recipe.model_copy(update={"runs_dir": str(run.parent)})
        try:
            with status_of(folder, job):
                require_one_folder(folder.path, job)
                source = open_source(recipe.data, catalogue)
                require_same_pictures(source, job)
                preparation = prepare(recipe, source, job)
                announce(preparation, folder.path, source, job)
                summary = _do(preparation, folder, source, job)
            _finish(folder.path, job)
        except (StoppedError, KeyboardInterrupt):
            words = ["--resume", str(folder.path), *(word for plugin in catalogue.plugins for word in ("--plugin", plugin))]
            job.console.print(f"to go on: distill train {shlex.join(words)}", style="bold", soft_wrap=True)
            raise
        finally:
            folder.close()
    _show_result(summary, folder.path, job)
    return folder.path


def _show_result(summary: Mapping[str, Any], path: Path, job: Job) -> None:
    print_result(result_table(summary), is_main=job.is_main)
    print_result(summary.get("verdict", ""), is_main=job.is_main)
    job.console.print(
        f"the student is {path / record.WEIGHTS_FILE}; all numbers are in {path / record.SUMMARY_FILE}, as pictures in {record.REPORT_FILE}"
    )


def _claim(draft: Draft, recipe: Recipe, *, resume: bool, run: Path | None) -> record.RunFolder:
    """The run's folder; a new one has the recipe in it, so that a job that is killed early can be gone on with too."""
    if run is not None:
        return open_run(run, recipe)
    else:
        runs_dir, name = Path(recipe.runs_dir), recipe.run_name or default_name(draft.name, recipe.seed)
        found = claim_again(runs_dir, name, recipe, is_fixed=recipe.run_name is not None) if resume else None
        return found or _with_recipe(claim_new(runs_dir, name, recipe, is_fixed=recipe.run_name is not None), recipe)


def _with_recipe(folder: record.RunFolder, recipe: Recipe) -> record.RunFolder:
    folder.write_text(record.RECIPE_FILE, to_yaml(recipe))
    return folder


def _agree(claim: Callable[[], record.RunFolder], job: Job) -> record.RunFolder:
    """A folder for the run, chosen and locked by the first process, which tells the others."""
    folders: list[record.RunFolder] = []

    def chosen() -> Path:
        folders.append(claim())
        return folders[0].path

    path = _from_first(chosen, is_first=job.is_main)
    return folders[0] if job.is_main else record.RunFolder(path)


def _from_first(make: Callable[[], Any], *, is_first: bool) -> Any:
    """What the first process makes, in all of them; also the error if it can't."""
    outcome: list[Any] = [None]
    if is_first:
        try:
            outcome = [make()]
        except OSError as error:
            outcome = [as_data_error(error)]
        except (DistillError, FinishedError) as error:
            outcome = [error]
    made = broadcast_object_list(outcome)[0]
    if isinstance(made, Exception):
        shared: Any = made  # Exception itself has no is_shared
        shared.is_shared = True
        raise shared
    return made


def _finish(path: Path, job: Job) -> None:
    """Draws what came out, once, beside the same student alone where there is one."""
    _tidy(path, job)
    report = path / record.REPORT_FILE
    if job.is_main and not report.exists():
        alone = record.read_json(path / record.SUMMARY_FILE).get("alone", {}).get("run")
        beside = [path.parent / alone] if alone and (path.parent / alone).is_dir() else []
        with contextlib.suppress(OSError):  # on a full disk the run is no worse for it, and `distill compare --html` draws it again
            record.write_text(report, page(compare(read_runs([path, *beside])[0])))


def _tidy(path: Path, job: Job) -> None:
    """A finished run keeps its best checkpoint only: the others were there to go on from."""
    if job.is_main:
        with contextlib.suppress(OSError):
            CheckpointFolder(path / record.CHECKPOINTS).keep_best()


def _do(preparation: Preparation, folder: record.RunFolder, source: DataSource, job: Job) -> dict[str, Any]:
    """Trains what has to be trained; returns the summary of the main run, with the student alone in it where there is one."""
    recipe, costs = preparation.recipe, preparation.costs
    weights = TeacherStore().get_or_train_all(recipe, preparation.teachers, source, job)
    alone = preparation.finished_control
    if alone is None and preparation.control is not None:
        alone = _train_control(preparation.control, f"{folder.path.name}-alone", source, job, costs)
    summary = train_run(recipe, folder.path.name, folder, source, job, costs=costs, teacher_weights=weights)
    if alone is not None:
        difference = compare_runs(folder.path, alone)
        row = record.read_json(alone / record.SUMMARY_FILE)["alone"] | {"run": alone.name}
        ours = summary["distilled"]
        row |= {name: ours[name] for name in ("images_per_second", "latency_ms")}  # the same network: one measurement, not two that differ by noise
        summary |= {"alone": row, "difference": difference._asdict()}
        summary["verdict"] = verdict(summary, difference)
        if job.is_main:
            folder.write_json(record.SUMMARY_FILE, summary)
    return summary


def _train_control(control: Recipe, name: str, source: DataSource, job: Job, costs: Mapping[str, Costs]) -> Path:
    """A run of its own; if an earlier job has not finished it, that one."""

    def claim() -> record.RunFolder:
        runs_dir = Path(control.runs_dir)
        return claim_unfinished(runs_dir, name, control) or _with_recipe(claim_next(runs_dir, name), control)

    folder = _agree(claim, job)
    try:
        with status_of(folder, job):
            train_run(control, folder.path.name, folder, source, job, costs=costs)
        _tidy(folder.path, job)
    finally:
        folder.close()
    return folder.path
