"""What a job will have to do: found out, rehearsed and said before anything long begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list

from distill import record
from distill.build.cache import why_not_kept
from distill.build.loaders import has_soft_labels, make_views, num_views
from distill.build.notes import loss_notes
from distill.build.pieces import build_pieces, peer_of, rehearse
from distill.build.plan import plan_run
from distill.build.teachers import costs_together, each_teacher
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs, measure_costs
from distill.engine.runtime import only_deterministic, precision_in_words, resolve_precision
from distill.recipe import Recipe
from distill.recipe_losses import Schedule
from distill.recipe_teachers import taught_by
from distill.report.console import duration
from distill.run_results import run_fingerprint
from distill.running import Job
from distill.student_alone import control_recipe, is_alone
from distill.teacher_store import TeacherPlan, TeacherStore, maker_recipes


@dataclass(frozen=True)
class Preparation:
    """What this job has to do, found out before anything long begins, when every network and loss has been built and tried once."""

    recipe: Recipe
    costs: Mapping[str, Costs]  # of "student" and "teacher"; of several teachers also by role, and "teacher" is all of them
    teachers: Mapping[str, TeacherPlan]  # by role, those of our own making
    control: Recipe | None
    finished_control: Path | None
    notes: Sequence[str]  # what the person should know of this recipe's losses
    keeps_answers: bool  # whether the teacher is asked once for each view


def prepare(recipe: Recipe, source: DataSource, job: Job) -> Preparation:
    """Raises RecipeError or DataError for whatever would fail later."""
    plan_run(recipe, source, job.state.num_processes)
    control = finished = None
    if recipe.control and not is_alone(recipe):
        control = control_recipe(recipe)
        finished = _find_finished(control, source, job)
    rehearsed = _rehearse(recipe, source, job)
    return Preparation(recipe, rehearsed.costs, rehearsed.teachers, control, finished, rehearsed.notes, rehearsed.keeps_answers)


class _Rehearsed(NamedTuple):
    costs: dict[str, Costs]  # by role
    notes: list[str]
    keeps_answers: bool
    teachers: dict[str, TeacherPlan]


def _rehearse(recipe: Recipe, source: DataSource, job: Job) -> _Rehearsed:
    """Builds everything with initial weights, takes one step, and measures the networks; the same for each teacher that must be distilled first."""
    store = TeacherStore()
    makers = maker_recipes(recipe, job.catalogue)
    for maker in makers.values():
        plan_run(maker, source, job.state.num_processes)
    known = {role: store.find(store.path(maker, source)) for role, maker in makers.items()}
    precision = resolve_precision(recipe.train.precision, job.state.device)
    pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights={})
    with only_deterministic(recipe.deterministic):
        notes = rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
    costs = {"student": measure_costs(pieces.distiller.student, source.image_size, is_trained=True)}
    for role, _, its in each_teacher(recipe, pieces):
        costs[role] = measure_costs(its.teacher.network, source.image_size, is_trained=role in known and known[role] is None)
    if recipe.peer is not None:
        costs["peer"] = measure_costs(peer_of(pieces), source.image_size, is_trained=True)
    if recipe.method == "ema_teacher":  # the same network again
        costs["teacher"] = costs["student"]
    if recipe.teachers is not None:
        costs["teacher"] = costs_together(recipe, [costs[role] for role in taught_by(recipe)])
    notes += loss_notes(pieces.distiller, recipe, source, job.state.num_processes)
    if make_views(recipe, source).mixes and source.train.pixels is None:
        notes.append("data.augment mixes pictures: each training picture is read and decoded twice, once as another's partner")
    reasons = [why_not_kept(own, its) for _, own, its in each_teacher(recipe, pieces)]
    keeps_answers = bool(reasons) and not any(reasons)
    del pieces  # before others are built
    plans = {role: _plan(maker, known[role], costs[role], source, job) for role, maker in makers.items()}
    return _Rehearsed(costs, notes, keeps_answers, plans)


def _plan(maker: Recipe, summary: dict[str, Any] | None, costs: Costs, source: DataSource, job: Job) -> TeacherPlan:
    """costs: of the network that this recipe makes."""
    if summary is not None or not taught_by(maker):
        return TeacherPlan(maker, summary, {"student": costs})
    rehearsed = _rehearse(maker, source, job)
    return TeacherPlan(maker, None, rehearsed.costs, rehearsed.teachers, rehearsed.keeps_answers)


def _find_finished(control: Recipe, source: DataSource, job: Job) -> Path | None:
    """A finished run that is this control in everything that matters, whatever it is called."""
    wanted = run_fingerprint(control, source, job)
    found: list[Path | None] = [None]
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
    yield from _teacher_steps(recipe, preparation.teachers, source, job)
    if preparation.finished_control is not None:
        yield f"use the student alone again from {preparation.finished_control}", 0.0
    elif preparation.control is not None:
        yield (
            f"train the student {recipe.student.model} alone for {_length(recipe)}, to compare with",
            _seconds(recipe, source, job, costs["student"]),
        )
    yield (
        f"train the student {recipe.student.model} for {_length(recipe)} on {_terms(recipe)}{_answers(recipe)}",
        _seconds(recipe, source, job, costs["student"], costs.get("teacher"), keeps_answers=preparation.keeps_answers)
        + (_seconds(recipe, source, job, costs["peer"]) if recipe.peer is not None else 0.0),
    )


def _teacher_steps(recipe: Recipe, plans: Mapping[str, TeacherPlan], source: DataSource, job: Job) -> Iterator[tuple[str, float]]:
    """What it takes to have what this recipe learns from: the first network of a chain first."""
    for role, teacher in taught_by(recipe).items():
        plan, who = plans.get(role), f"the {'teacher' if teacher.teacher is None else 'assistant'} {teacher.model}"
        if plan is None:
            yield f"load {who}, weights {teacher.weights}", 0.0
        elif plan.summary is not None:
            yield f"use {who} again that was trained on {plan.summary['created'][:10]}", 0.0
        else:
            yield from _teacher_steps(plan.recipe, plan.teachers, source, job)
            learned = "" if teacher.teacher is None else f" on {_terms(plan.recipe)} from {teacher.teacher.model}"
            seconds = _seconds(plan.recipe, source, job, plan.costs["student"], plan.costs.get("teacher"), keeps_answers=plan.keeps_answers)
            yield f"train {who} for {_length(plan.recipe)}{learned}, once: it is kept for later runs", seconds


def _answers(recipe: Recipe) -> str:
    """What the student learns from, where that is not one network."""
    if recipe.peer is not None:
        return f", together with {recipe.peer.model}: each learns from the other"
    if recipe.method == "ema_teacher":
        return f", where the teacher is the average of its own weights (decay {recipe.train.ema_decay:g})"
    if recipe.teachers is None:
        return ""
    how = {"mean": "the mean", "weighted": "the weighted mean", "sampled": "one, drawn for each view of a picture,"}[recipe.answers]
    return f", where the teacher is {how} of {len(recipe.teachers)} teachers"


def _terms(recipe: Recipe) -> str:
    return " + ".join(f"{_weight_in_words(entry.weight)} {label}" for label, entry in recipe.losses.items())


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
