"""One run from its recipe to its folder: builds, trains, scores, and writes down what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from distill import record
from distill.build.cache import open_cache
from distill.build.loaders import has_soft_labels
from distill.build.pieces import Pieces, build_pieces, peer_of, rehearse, weight_sources
from distill.build.plan import plan_run
from distill.build.teachers import asked, each_teacher
from distill.build.trainer import build_trainer
from distill.checkpoints import CheckpointFolder
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs
from distill.engine.network import Network
from distill.engine.runtime import make_accelerator, only_deterministic, resolve_precision
from distill.engine.saving import Saving
from distill.engine.teacher_cache import CachedTeacher
from distill.engine.trackers import Trackers
from distill.errors import DistillError, DivergedError
from distill.fast import form_of_teacher
from distill.fast_compile import compile_what_pays
from distill.out_of_memory import explained
from distill.recipe import Recipe
from distill.recipe_teachers import taught_by
from distill.report.console import RunProgress
from distill.run_results import score_parts, summarise, write_results
from distill.run_state import make_saving, seconds_before
from distill.running import Job
from distill.teacher_check import check_teacher


@dataclass(frozen=True)
class TeacherWeights:
    """Where a trained teacher's weights are, and what it scored on the validation part when it was made."""

    path: Path
    val_top1: float
    before: Sequence[Mapping[str, Any]] = ()  # rows of a summary: the networks before it in a chain, the first one first


@dataclass(frozen=True)
class _Run:
    """What every part of one run needs."""

    recipe: Recipe
    name: str
    folder: record.RunFolder
    source: DataSource
    job: Job
    accelerator: Accelerator
    precision: str


def train_run(
    recipe: Recipe,
    name: str,
    folder: record.RunFolder,
    source: DataSource,
    job: Job,
    *,
    costs: Mapping[str, Costs],
    teacher_weights: Mapping[str, TeacherWeights] = MappingProxyType({}),
) -> dict[str, Any]:
    """Trains and returns the run's summary, which is in its folder too. costs: of "student" and "teacher", as rehearsed. teacher_weights: by role, of
    what was trained for this run.

    Goes on from the folder's newest whole checkpoint, if there is one.
    """
    followed = Trackers(recipe.tracking if job.is_main else (), name, folder.path, recipe.model_dump(mode="json"), job.say)
    precision = resolve_precision(recipe.train.precision, job.state.device)
    with only_deterministic(recipe.deterministic), explained(recipe, precision, job), followed as trackers:
        run = _Run(recipe, name, folder, source, job, make_accelerator(), precision)
        summary = _train_run(run, costs, teacher_weights, trackers)
        trackers.finish(summary)
        return summary


def _train_run(run: _Run, costs: Mapping[str, Costs], teacher_weights: Mapping[str, TeacherWeights], trackers: Trackers) -> dict[str, Any]:
    started, recipe, source, job = time.perf_counter(), run.recipe, run.source, run.job
    if job.is_main:
        run.folder.write_json(record.ENVIRONMENT_FILE, record.environment(_device_name(job.state.device), run.precision, job.state.num_processes))
    sources = weight_sources(recipe, {role: str(weights.path) for role, weights in teacher_weights.items()})
    pieces = _built(run, sources)
    rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
    _say_what_was_loaded(pieces, job)
    for role, own, its in each_teacher(recipe, pieces):
        _head_line(role, own, job)
        trained = teacher_weights.get(role)
        check_teacher(own, source, its, run.accelerator, job, claimed=trained.val_top1 if trained else None)
    saving = make_saving(recipe, run.folder, source, pieces, job, run.precision)
    kept = _make_fast(run, pieces, costs, is_begun=saving.start is not None)
    scored = _train(run, pieces, saving, kept, trackers)
    pieces = _with_teacher_as_given(run, pieces, sources)
    with job.stopper.deferred():  # all that was trained is in a checkpoint
        results = score_parts(recipe, source, scored, pieces, run.accelerator, job)
    summary = summarise(recipe, run.name, source, job, results, costs, seconds_before(saving.start) + time.perf_counter() - started)
    for role, row in zip(taught_by(recipe), summary.get("teachers", [summary.get("teacher")]), strict=False):
        row["answers"] = _counted(kept[role], run.accelerator)
    if "teacher" in teacher_weights and (before := teacher_weights["teacher"].before):
        summary["chain"] = list(before)
    if job.is_main:
        write_results(run.folder, recipe, scored, results, summary, peer_of(pieces))
    job.state.wait_for_everyone()
    return summary


def _built(run: _Run, weights: Mapping[str, str]) -> Pieces:
    return build_pieces(run.recipe, run.job.catalogue, run.source, device=run.job.state.device, precision=run.precision, weights=weights)


def _head_line(role: str, recipe: Recipe, job: Job) -> None:
    """Says whom the next lines are about, where there are several."""
    if role != "teacher":
        job.say(f"{role}, {recipe.teacher.model}:")


def _make_fast(run: _Run, pieces: Pieces, costs: Mapping[str, Costs], *, is_begun: bool) -> dict[str, CachedTeacher | None]:
    """Decides how everything is computed, or takes up what was decided when the run began; returns by role each teacher's kept answers, None where
    they are not kept."""
    recipe, source, job = run.recipe, run.source, run.job
    before = broadcast_object_list([record.read_json(run.folder.path / record.FAST_FILE) if is_begun else {}])[0]
    forms: dict[str, Any] = {"teacher": None}
    kept, seconds = {}, {}
    for role, own, its in each_teacher(recipe, pieces):
        _head_line(role, own, job)
        forms[role] = form_of_teacher(own, source, its, run.accelerator, job, before=before.get(role))
        seconds[role] = 1 / costs[role].images_per_second
        kept[role] = open_cache(own, source, its, precision=run.precision, say=job.say, teacher_seconds=seconds[role])
    compiled = compile_what_pays(recipe, source, pieces, kept, job, teacher_seconds=seconds, before=before.get("compiled"))
    if job.is_main:
        run.folder.write_json(record.FAST_FILE, {"fast": recipe.fast, **forms, "compiled": compiled})
    return kept


def _with_teacher_as_given(run: _Run, pieces: Pieces, weights: Mapping[str, str]) -> Pieces:
    """For scoring: the form in which it taught differs in the last digits from what anybody else will measure of these weights."""
    if pieces.teacher is None or pieces.teacher.form == "as given":
        return pieces
    try:
        given = _built(run, weights).teacher
    except (DistillError, OSError) as error:
        given, why = None, str(error)
    if given is not None and given.checksum == pieces.teacher.checksum:
        return dataclasses.replace(pieces, teacher=given)
    run.job.say(f"teacher: it is scored as it taught, because its weights are not what they were: {why if given is None else 'they have changed'}")
    return pieces


def _train(run: _Run, pieces: Pieces, saving: Saving, kept: Mapping[str, CachedTeacher | None], trackers: Trackers) -> Network:
    """Trains with progress shown and metrics written by the first process; returns the network that is scored and kept."""
    job, plan = run.job, plan_run(run.recipe, run.source, run.job.state.num_processes)
    with RunProgress(job.console, run.name, plan.num_steps, plan.num_epochs) as progress:

        def log(event: Mapping[str, Any]) -> None:
            if job.is_main:
                run.folder.append(event)
                progress(event)
                trackers(event)

        how: dict[str, Any] = {
            "precision": run.precision,
            "log": log,
            "saving": saving,
            "stopper": job.stopper,
            "teacher": asked(pieces, kept),
            "warn": job.say,
        }
        trainer, scored = build_trainer(run.recipe, run.source, pieces, run.accelerator, **how)
        try:
            trainer.train()
        except DivergedError as error:
            raise _recorded(error, run.folder, job) from error
        finally:
            for answers in filter(None, kept.values()):
                answers.flush()
    return scored


def _counted(kept: CachedTeacher | None, accelerator: Accelerator) -> dict[str, Any]:
    """Pictures that the teacher was asked for, and that were answered from the cache, in all processes since the job began; all of them call this,
    also one that could not open the cache."""
    mine = [kept.num_asked, kept.num_read] if kept is not None else [0, 0]
    counts = accelerator.reduce(torch.tensor(mine, device=accelerator.device), "sum").tolist()
    return {"folder": str(kept.folder.path) if kept is not None else None} | dict(zip(("num_asked", "num_read"), counts, strict=True))


def _recorded(error: DivergedError, folder: record.RunFolder, job: Job) -> DivergedError:
    """Notes what is needed to run that batch again, and says how."""
    where: dict[str, Any] = {"step": error.step, "sample_ids": error.sample_ids, "terms": error.terms}
    if job.is_main:
        with contextlib.suppress(OSError):  # on a full disk: what is said matters more
            folder.write_json(record.DIVERGED_FILE, where)
    found, _ = CheckpointFolder(folder.path / record.CHECKPOINTS).newest()
    good = f"the last good checkpoint is {found.path}" if found else "there was no checkpoint before it"
    return DivergedError(f"{error}\n{good}; distill doctor --replay {folder.path} runs that batch again", **where)


def _say_what_was_loaded(pieces: Pieces, job: Job) -> None:
    for role, report in pieces.reports.items():
        head = "; its classifier is new, for this data's classes" if report.new_head else ""
        if report.num_classes_kept is not None:
            head = f"; its classifier is cut to these {report.num_classes_kept} classes, by name"
        job.console.print(f"{role}: weights from {report.source}{head}")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
