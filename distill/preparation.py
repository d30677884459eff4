"""What a job will have to do: found out, rehearsed and said before anything long begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from distill import record
from distill.build.cache import why_not_kept
from distill.build.loaders import has_soft_labels, make_views, num_views
from distill.build.notes import loss_notes
from distill.build.pieces import build_pieces, rehearse
from distill.build.plan import plan_run
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs, measure_costs
from distill.engine.runtime import only_deterministic, precision_in_words, resolve_precision
from distill.recipe import Recipe
from distill.recipe_losses import Schedule
from distill.report.console import duration
from distill.run_results import run_fingerprint
from distill.running import Job
from distill.student_alone import control_recipe, is_alone
from distill.teacher_store import TeacherStore, teacher_recipe


@dataclass(frozen=True)
class Preparation:
    """What this job has to do, found out before anything long begins, when every network and loss has been built and tried once."""

    recipe: Recipe
    costs: Mapping[str, Costs]  # of "student" and "teacher"
    teacher: Recipe | None  # the recipe of a teacher of our own making
    known_teacher: dict[str, Any] | None  # the summary of that teacher, if it is there
    control: Recipe | None
    finished_control: Path | None
    notes: Sequence[str]  # what the person should know of this recipe's losses
    keeps_answers: bool  # whether the teacher is asked once for each view


def prepare(recipe: Recipe, source: DataSource, job: Job) -> Preparation:
    """Raises RecipeError or DataError for whatever would fail later."""
    plan_run(recipe, source, job.state.num_processes)
    teacher = known_teacher = control = finished = None
    if recipe.teacher is not None and recipe.teacher.weights == "train":
        teacher, store = teacher_recipe(recipe, job), TeacherStore()
        plan_run(teacher, source, job.state.num_processes)
        known_teacher = store.find(store.path(teacher, source))
    if recipe.control and not is_alone(recipe):
        control = control_recipe(recipe)
        finished = _find_finished(control, source, job)
    costs, notes, keeps_answers = _rehearse(recipe, source, job, trains_teacher=teacher is not None and known_teacher is None)
    return Preparation(recipe, costs, teacher, known_teacher, control, finished, notes, keeps_answers)


def _rehearse(recipe: Recipe, source: DataSource, job: Job, *, trains_teacher: bool) -> tuple[dict[str, Costs], list[str], bool]:
    """Builds everything with initial weights, takes one step, and measures the networks. Returns (costs by role, notes, whether answers are kept)."""
    precision = resolve_precision(recipe.train.precision, job.state.device)
    pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights={})
    with only_deterministic(recipe.deterministic):
        notes = rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
    costs = {"student": measure_costs(pieces.distiller.student, source.image_size, is_trained=True)}
    if pieces.teacher is not None:
        costs["teacher"] = measure_costs(pieces.teacher.network, source.image_size, is_trained=trains_teacher)
    notes += loss_notes(pieces.distiller, recipe, source, job.state.num_processes)
    if make_views(recipe, source).mixes and source.train.pixels is None:
        notes.append("data.augment mixes pictures: each training picture is read and decoded twice, once as another's partner")
    return costs, notes, pieces.teacher is not None and why_not_kept(recipe, pieces) is None


def _find_finished(control: Recipe, source: DataSource, job: Job) -> Path | None:
    """A finished run that is this control in everything that matters, whatever it is called."""
    wanted = run_fingerprint(control, source, job)
    found = [None]
    if job.is_main:
        runs = record.finished_runs(Path(control.runs_dir))
        found = [next((path for path, summary in runs if summary.get("fingerprint") == wanted), None)]
    return broadcast_object_list(found)[0]


def announce(preparation: Preparation, path: Path, source: DataSource, job: Job) -> None:
    """Says what will be done and about how long it takes, from the speed just measured."""
    recipe, sizes = preparation.recipe, " / ".join(f"{len(part):,}" for part in (source.train, source.val, source.test))
    precision = precision_in_words(recipe.train.precision, job.state.device)
    job.console.print(f"{path.name}: {recipe.description}", style="bold")
    job.console.print(f"data: {recipe.data.source}, {source.image_size} px, {sizes} pictures to train / validate / test")
    job.console.print(f"      {source.note}")
    job.console.print(f"on: {job.state.num_processes} process(es), {job.state.device.type}, {precision}")
    for note in preparation.notes:
        job.console.print(f"note: {note}", style="yellow", soft_wrap=True)
    total = 0.0
    for number, (what, seconds) in enumerate(_steps(preparation, source, job), start=1):
        total += seconds
        job.console.print(f"  {number}. {what}" + (f", about {duration(seconds)}" if seconds else ""))
    job.console.print(f"  about {duration(total)} in all")


def _steps(preparation: Preparation, source: DataSource, job: Job) -> Iterator[tuple[str, float]]:
    """(what, about how many seconds) of each thing to do."""
    recipe, costs = preparation.recipe, preparation.costs
    if recipe.teacher is not None:
        if preparation.teacher is None:
            yield f"load the teacher {recipe.teacher.model}, weights {recipe.teacher.weights}", 0.0
        elif preparation.known_teacher is not None:
            yield f"use the teacher {recipe.teacher.model} again that was trained on {preparation.known_teacher['created'][:10]}", 0.0
        else:
            seconds = _seconds(preparation.teacher, source, job, costs["teacher"])
            yield f"train the teacher {recipe.teacher.model} for {_length(preparation.teacher)}, once: it is kept for later runs", seconds
    if preparation.finished_control is not None:
        yield f"use the student alone again from {preparation.finished_control}", 0.0
    elif preparation.control is not None:
        yield (
            f"train the student {recipe.student.model} alone for {_length(recipe)}, to compare with",
            _seconds(recipe, source, job, costs["student"]),
        )
    terms = " + ".join(f"{_weight_in_words(entry.weight)} {label}" for label, entry in recipe.losses.items())
    yield (
        f"train the student {recipe.student.model} for {_length(recipe)} on {terms}",
        _seconds(recipe, source, job, costs["student"], costs.get("teacher"), keeps_answers=preparation.keeps_answers),
    )


def _weight_in_words(weight: float | str | Schedule) -> str:
    if isinstance(weight, Schedule):
        start, end = weight.ends
        return f"({start:g} to {end:g}, {weight.schedule})"
    return weight if isinstance(weight, str) else f"{weight:g}"


def _length(recipe: Recipe) -> str:
    if recipe.train.max_steps is not None:
        return f"at most {recipe.train.max_steps} steps"
    return f"{recipe.train.epochs} epoch" + ("s" if recipe.train.epochs > 1 else "")


def _seconds(recipe: Recipe, source: DataSource, job: Job, student: Costs, teacher: Costs | None = None, *, keeps_answers: bool = False) -> float:
    plan = plan_run(recipe, source, job.state.num_processes)
    num_images = plan.images_seen(recipe.data.global_batch_size) / job.state.num_processes
    scored = (plan.num_epochs * len(source.val) + len(source.test)) / job.state.num_processes
    seconds = num_images / student.training_images_per_second + scored / student.images_per_second
    if teacher is None:
        return seconds
    # at most: what earlier runs have left in the cache is not known before the teacher's weights are there
    asked = min(1.0, num_views(recipe) / plan.num_epochs) if keeps_answers else 1.0
    return seconds + asked * num_images / teacher.images_per_second
