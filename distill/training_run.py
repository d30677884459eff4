"""One run from its recipe to its folder: builds, trains, scores, and writes down what came out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate import Accelerator

import distill
from distill import record
from distill.build.cache import open_cache
from distill.build.loaders import evaluation_loader, has_soft_labels
from distill.build.pieces import Pieces, build_pieces, rehearse, weight_sources
from distill.build.plan import plan_run
from distill.build.trainer import build_trainer
from distill.checkpoints import CheckpointFolder
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs
from distill.engine.evaluation import Score, score
from distill.engine.network import Network
from distill.engine.runtime import make_accelerator, only_deterministic, resolve_precision
from distill.engine.saving import Saving
from distill.engine.teacher_cache import CachedTeacher
from distill.errors import DataError, DivergedError
from distill.models.weight_files import save_weights
from distill.recipe import Recipe
from distill.recipe_files import fingerprint
from distill.report.console import RunProgress
from distill.run_state import make_saving, seconds_before
from distill.running import Job
from distill.teacher_check import check_teacher


@dataclass(frozen=True)
class TeacherWeights:
    """Where a trained teacher's weights are, and what it scored on the validation part when it was made."""

    path: Path
    val_top1: float


def is_alone(recipe: Recipe) -> bool:
    """Whether this is a student alone: it learns from nothing but the labels."""
    return recipe.teacher is None and all(entry.name(label) == "ce" for label, entry in recipe.losses.items())


def run_fingerprint(recipe: Recipe, source: DataSource, job: Job) -> str:
    """Equal for two runs that would give the same student on this machine."""
    parts = [
        fingerprint(recipe),
        source.fingerprint(),
        source.decoder,
        resolve_precision(recipe.train.precision, job.state.device),
        job.state.device.type,
        job.state.num_processes,
        torch.__version__,
        accelerate.__version__,
        distill.__version__,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def train_run(
    recipe: Recipe,
    name: str,
    folder: record.RunFolder,
    source: DataSource,
    job: Job,
    *,
    costs: Mapping[str, Costs],
    teacher_weights: TeacherWeights | None = None,
) -> dict[str, Any]:
    """Trains and returns the run's summary, which is in its folder too. costs: of "student" and "teacher", as rehearsed.

    Goes on from the folder's newest whole checkpoint, if there is one.
    """
    with only_deterministic(recipe.deterministic):
        return _train_run(recipe, name, folder, source, job, costs, teacher_weights)


def _train_run(
    recipe: Recipe,
    name: str,
    folder: record.RunFolder,
    source: DataSource,
    job: Job,
    costs: Mapping[str, Costs],
    teacher_weights: TeacherWeights | None,
) -> dict[str, Any]:
    started, precision = time.perf_counter(), resolve_precision(recipe.train.precision, job.state.device)
    accelerator = make_accelerator(recipe.train.accumulation)
    if job.is_main:
        folder.write_json(record.ENVIRONMENT_FILE, record.environment(_device_name(job.state.device), precision, job.state.num_processes))
    sources = weight_sources(recipe, str(teacher_weights.path) if teacher_weights else None)
    pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights=sources)
    rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
    _say_what_was_loaded(pieces, job)
    if pieces.teacher is not None:
        check_teacher(recipe, source, pieces, accelerator, job, claimed=teacher_weights.val_top1 if teacher_weights else None)
    saving = make_saving(recipe, folder, source, pieces, job, precision)
    teacher_seconds = 1 / costs["teacher"].images_per_second if "teacher" in costs else None
    kept = open_cache(recipe, source, pieces, precision=precision, say=job.say, teacher_seconds=teacher_seconds)
    scored = _train(recipe, name, folder, source, job, pieces, accelerator, precision, saving, kept)
    with job.stopper.deferred():  # all that was trained is in a checkpoint
        scores = {part: _score_part(recipe, source, part, scored, pieces, accelerator, job) for part in ("val", "test")}
    summary = _summarise(recipe, name, source, job, scores, costs, seconds_before(saving.start) + time.perf_counter() - started)
    if pieces.teacher is not None:
        summary["teacher"]["answers"] = _counted(kept, accelerator)
    if job.is_main:
        _write_results(folder, recipe, scored, scores, summary)
    job.state.wait_for_everyone()
    return summary


def _write_results(folder: record.RunFolder, recipe: Recipe, scored: Network, scores: Mapping[str, Mapping[str, Score]], summary: Any) -> None:
    try:
        folder.metrics_size()
        save_weights(scored.model.state_dict(), folder.path / record.WEIGHTS_FILE, {"format": "pt", "model": recipe.student.model})
        _save_predictions(folder, scores)
        folder.write_json(record.SUMMARY_FILE, summary)
    except OSError as error:
        last, _ = CheckpointFolder(folder.path / record.CHECKPOINTS).newest()
        what = f"the results can't be written to {folder.path}: {error.strerror or error}; mend that and add --resume"
        raise DataError(f"{what}: training goes on from step {last.step if last else 0}") from error


def _train(
    recipe: Recipe,
    name: str,
    folder: record.RunFolder,
    source: DataSource,
    job: Job,
    pieces: Pieces,
    accelerator: Accelerator,
    precision: str,
    saving: Saving,
    kept: CachedTeacher | None,
) -> Network:
    """Trains with progress shown and metrics written by the first process; returns the network that is scored and kept."""
    plan = plan_run(recipe, source, job.state.num_processes)
    with RunProgress(job.console, name, plan.num_steps, plan.num_epochs) as progress:

        def log(event: Mapping[str, Any]) -> None:
            if job.is_main:
                folder.append(event)
                progress(event)

        how = {"precision": precision, "log": log, "saving": saving, "stopper": job.stopper, "teacher": kept, "warn": job.say}
        trainer, scored = build_trainer(recipe, source, pieces, accelerator, **how)
        try:
            trainer.train()
        except DivergedError as error:
            raise _recorded(error, folder, job) from error
        finally:
            if kept is not None:
                kept.flush()
    return scored


def _counted(kept: CachedTeacher | None, accelerator: Accelerator) -> dict[str, Any]:
    """Pictures that the teacher was asked for, and that were answered from the cache, in all processes since the job began; all of them call this,
    also one that could not open the cache."""
    mine = [kept.num_asked, kept.num_read] if kept is not None else [0, 0]
    counts = accelerator.reduce(torch.tensor(mine, device=accelerator.device), "sum").tolist()
    return {"folder": str(kept.folder.path) if kept is not None else None} | dict(zip(("num_asked", "num_read"), counts, strict=True))


def _recorded(error: DivergedError, folder: record.RunFolder, job: Job) -> DivergedError:
    """Notes what is needed to run that batch again, and says how."""
    where = {"step": error.step, "sample_ids": error.sample_ids, "terms": error.terms}
    if job.is_main:
        with contextlib.suppress(OSError):  # on a full disk: what is said matters more
            folder.write_json(record.DIVERGED_FILE, where)
    found, _ = CheckpointFolder(folder.path / record.CHECKPOINTS).newest()
    good = f"the last good checkpoint is {found.path}" if found else "there was no checkpoint before it"
    return DivergedError(f"{error}\n{good}; distill doctor --replay {folder.path} runs that batch again", **where)


def _say_what_was_loaded(pieces: Pieces, job: Job) -> None:
    for role, report in pieces.reports.items():
        head = "; its classifier is new, for this data's classes" if report.new_head else ""
        job.console.print(f"{role}: weights from {report.source}{head}")


def _score_part(
    recipe: Recipe, source: DataSource, part: str, student: Network, pieces: Pieces, accelerator: Accelerator, job: Job
) -> dict[str, Score]:
    """Student and teacher in one pass, so that the pictures are read once."""
    has_scores = pieces.teacher is not None and recipe.teacher.num_classes in (None, len(source.class_names))
    networks = {"student": student} | ({"teacher": pieces.teacher.network} if has_scores else {})
    return score(networks, evaluation_loader(recipe, source, getattr(source, part), accelerator, job.say), accelerator, job.stopper.check)


def _summarise(
    recipe: Recipe, name: str, source: DataSource, job: Job, scores: Mapping[str, Mapping[str, Score]], costs: Mapping[str, Costs], seconds: float
) -> dict[str, Any]:
    """The objects teacher, distilled, alone have the scores of these three; a student that learns from labels only is "alone", and a teacher of
    other classes has no scores."""
    summary: dict[str, Any] = {
        "format": 1,
        "run_name": name,
        "seed": recipe.seed,
        "created": record.now(),
        "seconds": round(seconds, 1),
        "fingerprint": run_fingerprint(recipe, source, job),
        "data": {
            "source": recipe.data.source,
            "image_size": source.image_size,
            "num_classes": len(source.class_names),
            **{f"num_{part}": len(getattr(source, part)) for part in ("train", "val", "test")},
            "note": source.note,
            "decoder": source.decoder,
        },
    }
    for role, network in (("teacher", recipe.teacher), ("student", recipe.student)):
        if network is not None:
            row: dict[str, Any] = {"model": network.model}
            for part in ("val", "test") if role in scores["test"] else ():
                row |= {f"{part}_top1": scores[part][role].top1, f"{part}_nll": scores[part][role].nll}
            if role == "student" and "teacher" in scores["test"]:
                row["agreement"] = scores["test"]["student"].agreement(scores["test"]["teacher"])
            key = role if role == "teacher" else "alone" if is_alone(recipe) else "distilled"
            summary[key] = row | costs[role].as_dict()
    return summary


def _save_predictions(folder: record.RunFolder, scores: Mapping[str, Mapping[str, Score]]) -> None:
    """The student's answers, so that two runs can be compared picture by picture."""
    arrays = {part: scores[part]["student"].predictions.astype(np.int32) for part in scores}
    labels = {f"{part}_labels": scores[part]["student"].labels.astype(np.int32) for part in scores}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **labels)
    record.write_bytes(folder.path / record.PREDICTIONS_FILE, buffer.getvalue())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
