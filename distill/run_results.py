"""What a finished run says of its student: scored once, summed up, and written into its folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import accelerate
import numpy as np
import torch
from accelerate import Accelerator

import distill
from distill import record
from distill.build.loaders import evaluation_loader
from distill.build.pieces import Pieces, peer_of
from distill.build.teachers import each_teacher
from distill.checkpoints import CheckpointFolder
from distill.data.sources.base import DataSource
from distill.engine.costs import Costs
from distill.engine.differing import Differing, DifferingPictures
from distill.engine.evaluation import Answering, Score, Watch, score
from distill.engine.methods.several_teachers import Remembered, Together
from distill.engine.network import Network
from distill.engine.runtime import resolve_precision
from distill.engine.similarity import LayerSimilarity
from distill.errors import DataError
from distill.models.weight_files import save_weights
from distill.recipe import Recipe
from distill.recipe_files import fingerprint
from distill.recipe_teachers import shares, taught_by
from distill.report.calibration import expected_calibration_error
from distill.running import Job
from distill.student_alone import is_alone

_FORMAT = 2  # of summary.json; 1 had neither calibration nor what compares a student with its teacher, but for their agreement


@dataclass(frozen=True)
class Results:
    """Of the finished student, and of its teacher where it knows the same classes."""

    scores: Mapping[str, Mapping[str, Score]]  # part ("val", "test") -> "student", "teacher" -> score
    similarity: Mapping[str, float] = field(default_factory=dict)  # layer -> CKA, on val
    differing: list[Differing] = field(default_factory=list)  # on test


def run_fingerprint(recipe: Recipe, source: DataSource, job: Job, data_fingerprint: str | None = None) -> str:
    """Equal for two runs that would give the same student on this machine. data_fingerprint: the source's, where it is known already."""
    parts = [
        fingerprint(recipe),
        data_fingerprint or source.fingerprint(),
        source.decoder,
        resolve_precision(recipe.train.precision, job.state.device),
        job.state.device.type,
        job.state.num_processes,
        torch.__version__,
        accelerate.__version__,
        distill.__version__,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def score_parts(recipe: Recipe, source: DataSource, student: Network, pieces: Pieces, accelerator: Accelerator, job: Job) -> Results:
    """Student and teacher in one pass over each part, so that the pictures are read once."""
    networks = {"student": student} | ({} if recipe.peer is None else {"peer": peer_of(pieces)})
    if not taught_by(recipe) or (recipe.teacher is not None and recipe.teacher.num_classes not in (None, len(source.class_names))):
        return Results({part: _score(networks, recipe, source, part, accelerator, job, ()) for part in ("val", "test")})
    if recipe.teachers is not None:
        return _scored_with_several(networks, recipe, source, pieces, accelerator, job)
    networks["teacher"] = pieces.teacher.network
    aliases = recipe.student.features, recipe.teacher.features
    similarity = LayerSimilarity(student.model, pieces.teacher.network.model, aliases, num_processes=accelerator.num_processes)
    try:
        val = _score(networks, recipe, source, "val", accelerator, job, (similarity,))
    finally:
        similarity.remove()
    differing = DifferingPictures()
    test = _score(networks, recipe, source, "test", accelerator, job, (differing,))
    return Results({"val": val, "test": test}, similarity.result(accelerator), differing.result())


def _scored_with_several(
    networks: Mapping[str, Answering], recipe: Recipe, source: DataSource, pieces: Pieces, accelerator: Accelerator, job: Job
) -> Results:
    """Each teacher by its role, and as "teacher" what they answer together. Layers are not compared: there is no one teacher with the student's."""
    each = {role: Remembered(its.teacher.network) for role, _, its in each_teacher(recipe, pieces)}
    together = Together(list(each.values()), shares(recipe), is_sampled=recipe.answers == "sampled")
    networks = {**networks, **each, "teacher": together}
    differing = DifferingPictures()
    val = _score(networks, recipe, source, "val", accelerator, job, ())
    test = _score(networks, recipe, source, "test", accelerator, job, (differing,))
    return Results({"val": val, "test": test}, {}, differing.result())


def _score(
    networks: Mapping[str, Answering], recipe: Recipe, source: DataSource, part: str, accelerator: Accelerator, job: Job, watches: Sequence[Watch]
) -> dict[str, Score]:
    loader, reference = evaluation_loader(recipe, source, getattr(source, part), accelerator, job.say), "teacher" if "teacher" in networks else None
    return score(networks, loader, accelerator, job.stopper.check, reference=reference, watches=watches)


def summarise(
    recipe: Recipe, name: str, source: DataSource, job: Job, results: Results, costs: Mapping[str, Costs], seconds: float
) -> dict[str, Any]:
    """The objects teacher, distilled, alone have the scores of these three; a student that learns from labels only is "alone", and a teacher of
    other classes has no scores. Of several teachers, teacher is what they answer together, and teachers has each."""
    data_fingerprint = source.fingerprint()
    summary: dict[str, Any] = {
        "format": _FORMAT,
        "run_name": name,
        "seed": recipe.seed,
        "created": record.now(),
        "seconds": round(seconds, 1),
        "fingerprint": run_fingerprint(recipe, source, job, data_fingerprint),
        "recipe": recipe.model_dump(mode="json"),  # JSON is read ten times as fast as the YAML beside it, which is for people
        "data": {
            "source": recipe.data.source,
            "fingerprint": data_fingerprint,
            "image_size": source.image_size,
            "num_classes": len(source.class_names),
            "class_names": source.class_names,
            **{f"num_{part}": len(getattr(source, part)) for part in ("train", "val", "test")},
            "note": source.note,
            "decoder": source.decoder,
        },
    }
    if recipe.method != "distill":
        summary["method"] = recipe.method
    num_classes = len(source.class_names)
    if recipe.teachers is not None:
        models = {role: teacher.model for role, teacher in taught_by(recipe).items()}
        together = {"answers_as_one": recipe.answers}
        summary["teacher"] = _row(" + ".join(models.values()), "teacher", results, num_classes) | together | costs["teacher"].as_dict()
        rows = zip(models.items(), recipe.teachers, strict=True)
        summary["teachers"] = [
            _row(model, role, results, num_classes) | {"weight": one.weight} | costs[role].as_dict() for (role, model), one in rows
        ]
    elif recipe.teacher is not None:
        summary["teacher"] = _row(recipe.teacher.model, "teacher", results, num_classes) | costs["teacher"].as_dict()
    if recipe.peer is not None:
        summary["peer"] = _row(recipe.peer.model, "peer", results, num_classes) | costs["peer"].as_dict()
    row = _row(recipe.student.model, "student", results, num_classes)
    row |= _fidelity(results) if "teacher" in results.scores["test"] else {}
    summary["alone" if is_alone(recipe) else "distilled"] = row | costs["student"].as_dict()
    return summary


def _row(model: str, role: str, results: Results, num_classes: int) -> dict[str, Any]:
    """A network that knows other classes has no scores."""
    return {"model": model} | (network_scores(results.scores, role, num_classes) if role in results.scores["test"] else {})


def network_scores(scores: Mapping[str, Mapping[str, Score]], role: str, num_classes: int) -> dict[str, float]:
    """PART_top1, PART_top5 (where there are more than five classes), PART_nll, PART_ece and PART_brier of one network."""
    found: dict[str, float] = {}
    for part, by_role in scores.items():
        ours = by_role[role]
        found |= {f"{part}_top1": ours.top1, f"{part}_nll": ours.nll, f"{part}_brier": ours.brier}
        found[f"{part}_ece"] = expected_calibration_error(ours.confidences, ours.predictions == ours.labels)
        if num_classes > 5:
            found[f"{part}_top5"] = ours.top5
    return found


def _fidelity(results: Results) -> dict[str, Any]:
    """How near the student's answers are to its teacher's, on test; CKA on val."""
    student, teacher = (results.scores["test"][role] for role in ("student", "teacher"))
    return {
        "agreement": student.agreement(teacher),
        "agreement_on_mistakes": student.agreement_on_mistakes(teacher),
        "kl": float(student.divergences.mean()),
        "cka": dict(results.similarity),
    }


def write_results(
    folder: record.RunFolder, recipe: Recipe, scored: Network, results: Results, summary: Mapping[str, Any], peer: Network | None = None
) -> None:
    """The student, its peer if it has one, its answers, the pictures to look at, and last the summary. Raises DataError if they can't be written."""
    try:
        folder.metrics_size()
        save_weights(scored.model.state_dict(), folder.path / record.WEIGHTS_FILE, {"format": "pt", "model": recipe.student.model})
        if peer is not None:
            save_weights(peer.model.state_dict(), folder.path / record.PEER_FILE, {"format": "pt", "model": recipe.peer.model})
        _save_arrays(folder, record.PREDICTIONS_FILE, _answers(results))
        if results.differing:
            _save_arrays(folder, record.PICTURES_FILE, _pictures(results.differing))
        folder.write_json(record.SUMMARY_FILE, summary)
    except OSError as error:
        last, _ = CheckpointFolder(folder.path / record.CHECKPOINTS).newest()
        what = f"the results can't be written to {folder.path}: {error.strerror or error}; mend that and add --resume"
        raise DataError(f"{what}: training goes on from step {last.step if last else 0}") from error


def _answers(results: Results) -> dict[str, np.ndarray]:
    """The student's answers on val and test, so that two runs can be compared picture by picture, and how sure it was of those on test; the
    teacher's on test."""
    arrays: dict[str, np.ndarray] = {}
    for part, scores in results.scores.items():
        arrays |= {part: scores["student"].predictions.astype(np.int32), f"{part}_labels": scores["student"].labels.astype(np.int32)}
    arrays["test_confidences"] = results.scores["test"]["student"].confidences
    if teacher := results.scores["test"].get("teacher"):
        arrays |= {"test_teacher": teacher.predictions.astype(np.int32), "test_teacher_confidences": teacher.confidences}
    return arrays


def _pictures(differing: list[Differing]) -> dict[str, np.ndarray]:
    columns = {name: np.array([getattr(entry, name) for entry in differing]) for name in Differing._fields if name != "picture"}
    return columns | {"picture": np.stack([entry.picture for entry in differing])}


def _save_arrays(folder: record.RunFolder, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast("dict[str, Any]", arrays))
    record.write_bytes(folder.path / name, buffer.getvalue())
