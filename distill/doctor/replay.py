"""`distill doctor --replay RUN`: takes the step at which a run's loss or gradient was not finite once more, and looks where that begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill import record
from distill.build.check import find_problems
from distill.build.loaders import has_soft_labels
from distill.build.pieces import Pieces, build_pieces, rehearse, weight_sources
from distill.build.source import open_source
from distill.build.teachers import each_teacher
from distill.build.trainer import build_trainer
from distill.checkpoints import Checkpoint, CheckpointFolder
from distill.data.sources.base import DataSource
from distill.doctor.replay_look import look_at
from distill.doctor.replay_show import show_replay
from distill.engine.gradients import auto_weights, measure_gradients
from distill.engine.runtime import make_accelerator, only_deterministic, prepare_process, processes, resolve_precision, seed_step
from distill.engine.saving import Saving
from distill.engine.stopping import Stopper
from distill.engine.trainer import Trainer
from distill.errors import DataError, DivergedError, RecipeError
from distill.fast import form_of_teacher
from distill.recipe import Recipe
from distill.recipe_files import read_draft
from distill.report.console import make_console
from distill.resolve import Catalogue
from distill.running import Job
from distill.teacher_store import TeacherStore


def replay(run: str, catalogue: Catalogue, *, as_json: bool = False) -> None:
    """Prints what is seen in that step; the run's folder is left as it is. Raises RecipeError for a run that did not diverge."""
    folder = Path(run)
    diverged = _diverged(folder, run)
    prepare_process()
    state = processes()
    if state.num_processes > 1:
        raise RecipeError("--replay works in one process: start it without a launcher")
    job = Job(catalogue, state, make_console(is_main=True), Stopper())
    draft = read_draft(folder)
    recipe = draft.finish(find_problems(draft.values, catalogue))
    with only_deterministic(recipe.deterministic):
        report = _replayed(recipe, folder, diverged, job)
    show_replay({"run": run, **report}, as_json=as_json)


def _diverged(folder: Path, run: str) -> dict[str, Any]:
    if not (folder / record.RECIPE_FILE).is_file():
        raise RecipeError(f"--replay {run}: {'that is no run: it has no recipe.resolved.yaml' if folder.is_dir() else 'there is no such folder'}")
    if not (folder / record.DIVERGED_FILE).exists():
        raise RecipeError(
            f"--replay {run}: this run did not diverge: it has no {record.DIVERGED_FILE}, which a loss or gradient that is not finite leaves"
        )
    found = record.read_json(folder / record.DIVERGED_FILE)
    kinds = {"sample_ids": int, "terms": str}
    lists = all(isinstance(found.get(name), list) and all(type(item) is kind for item in found[name]) for name, kind in kinds.items())
    if type(found.get("step")) is not int or found["step"] < 0 or not lists:
        raise DataError(f"{folder / record.DIVERGED_FILE} is not what a run writes: it needs step, sample_ids and terms")
    return found


def _replayed(recipe: Recipe, folder: Path, diverged: Mapping[str, Any], job: Job) -> dict[str, Any]:
    source, precision = open_source(recipe.data, job.catalogue), resolve_precision(recipe.train.precision, job.state.device)
    sources = weight_sources(recipe, _trained_teachers(recipe, source, job))
    pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights=sources)
    rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
    start, notes = CheckpointFolder(folder / record.CHECKPOINTS).newest()
    notes += _differences(folder, start, source, pieces, job, precision)
    accelerator = make_accelerator()
    decided = record.read_json(folder / record.FAST_FILE)
    for role, own, its in each_teacher(recipe, pieces):
        form_of_teacher(own, source, its, accelerator, job, before=decided.get(role))
    saving = Saving(start=start)  # without a way to save: the folder stays as it is
    trainer, _ = build_trainer(recipe, source, pieces, accelerator, precision=precision, log=lambda event: None, saving=saving)
    trainer.evaluate = lambda check: {"val_top1": 0.0}  # it changes no weight
    if diverged["step"] >= trainer.num_steps:
        raise DataError(f"{folder / record.DIVERGED_FILE}: step {diverged['step']} is beyond the run's {trainer.num_steps} steps")
    step, report = diverged["step"], {"step": diverged["step"], "started_from": start.path.name if start else None, "diverged": diverged}
    job.console.print(f"training from step {trainer.step} to step {step}", style="dim")
    try:
        trainer.train(until=step)
    except DivergedError as error:
        where = f"here it was already step {error.step + 1} that was not finite, and there step {step + 1}"
        return {**report, "notes": notes, "reproduced": False, "verdict": f"The failure came earlier than in the run: {where}."}
    parts, terms = _look(recipe, trainer, step)
    return {**report, "notes": notes, "lr": trainer.schedule(step), "parts": parts, **_concluded(parts, terms, diverged)}


def _trained_teachers(recipe: Recipe, source: DataSource, job: Job) -> dict[str, str]:
    kept = TeacherStore().kept(recipe, source, job)
    for path, summary in kept.values():
        if summary is None:
            raise DataError(f"the teacher that this run learned from is not at {path}; if it is kept elsewhere set DISTILL_CACHE=FOLDER")
    return {role: str(path / record.WEIGHTS_FILE) for role, (path, _) in kept.items()}


def _differences(folder: Path, start: Checkpoint | None, source: DataSource, pieces: Pieces, job: Job, precision: str) -> Iterator[str]:
    """What is not as it was in the run, so that the step may be another one."""
    then = record.read_json(folder / record.ENVIRONMENT_FILE)
    now = {"precision": precision, "num_processes": job.state.num_processes, "device": job.state.device.type}
    if job.state.device.type == "cuda":
        now["device"] = torch.cuda.get_device_name(job.state.device)
    for name, value in now.items():
        if then.get(name) not in (None, value):
            yield f"{name} was {then[name]} in the run and is {value} here: other rounding, and perhaps no failure"
    torch_then = (then.get("versions") or {}).get("torch")
    if torch_then not in (None, record.environment("", "", 1)["versions"]["torch"]):
        yield f"torch was {torch_then} in the run: other rounding, and perhaps no failure"
    if start is not None and start.state.get("data") not in (None, source.fingerprint()):
        yield "the pictures are not those of the run (files, labels or classes have changed)"
    if start is not None and pieces.teacher is not None and start.state.get("teacher") not in (None, pieces.teacher.checksum):
        yield "the teacher's weights are not those of the run"


def _look(recipe: Recipe, trainer: Trainer, step: int) -> tuple[list[dict[str, Any]], set[str]]:
    """(what is seen in each part of the step's batch, labels of the terms that are not finite)."""
    epoch, first = divmod(step, trainer.loader.steps_per_epoch)
    distiller, device = trainer.trained.distiller.train(), trainer.accelerator.device
    distiller.set_step(step)
    parts, bad = [], set()
    for number, batch in zip(range(recipe.train.accumulation), trainer.loader.epoch(epoch, first), strict=False):
        seed_step(device, trainer.seed, step, number, 0)
        teacher = trainer.teacher(batch) if trainer.teacher else None
        if step == 0 and number == 0 and distiller.auto:
            distiller.balance(auto_weights(distiller.auto, measure_gradients(distiller, batch, teacher, trainer.accelerator)))
        parts.append(look_at(distiller, batch, teacher))
        bad |= {row["term"] for row in parts[-1]["terms"] if not math.isfinite(row["value"])}
    return parts, bad


def _concluded(parts: Sequence[Mapping[str, Any]], terms: set[str], diverged: Mapping[str, Any]) -> dict[str, Any]:
    """Whether it was the same failure, and what it suggests."""
    bad_gradients = [row["term"] for part in parts for row in part["terms"] if row["num_wrong_parameters"]]
    is_same = terms == set(diverged["terms"]) if diverged["terms"] else bool(bad_gradients)
    if not (terms or bad_gradients):
        more = "all is finite here; compare device, precision, versions and number of processes with those of the run"
        return {"reproduced": False, "verdict": f"The failure was not reproduced: {more}."}
    names = " and ".join(repr(name) for name in (sorted(terms) or dict.fromkeys(bad_gradients)))
    what = f"the loss {names} is not finite" if terms else f"all losses are finite, and the gradient of {names} is not"
    said = (
        "The failure was reproduced"
        if is_same
        else f"It fails here too, but in another way than in the run ({', '.join(diverged['terms']) or 'gradient'})"
    )
    return {"reproduced": is_same, "verdict": f"{said}: {what}. {_suggestion(parts, terms)}"}


def _suggestion(parts: Sequence[Mapping[str, Any]], terms: set[str]) -> str:
    place = next((part["places"][0] for part in parts if part["places"]), "")
    largest = max(part["largest_logit"] for part in parts)
    if "weights" in place:
        return "Weights were not finite before this step, which a run does not let happen: is the checkpoint whole?"
    if place.startswith("teacher"):
        return "The teacher's own answers are not finite: are its weights and normalisation (teacher.mean, teacher.std) right, and its precision?"
    if place.startswith("student"):
        return f"It begins inside the student, at {place.partition(' ')[2]}: a lower train.lr, train.clip_norm=1.0, or train.precision=fp32."
    if largest > 1e3:
        return (
            f"The largest logit is {largest:.3g}: training was running away; a lower train.lr, a longer train.warmup_epochs or train.clip_norm=1.0."
        )
    guilty = sorted({picture["sample_id"] for part in parts for picture in part["pictures"] if picture["terms"]})
    whose = f" It is so for sample {', '.join(map(str, guilty))} alone." if guilty else ""
    if terms:
        return (
            f"Networks and logits are finite, so it is the loss's own arithmetic (a division, a logarithm or an overflow without care for 0).{whose}"
        )
    return (
        "Values are finite and the slope is not: a square root, norm or power at 0, or a division by a small number in the loss; an eps helps there."
    )
