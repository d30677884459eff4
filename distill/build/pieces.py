"""Builds the networks and losses of a run, and rehearses one step before anything long begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill import recipe as schema
from distill.build.batches import made_up_batch
from distill.build.losses import make_distiller, make_losses, set_up, training_data
from distill.build.measuring import measure, require_layers
from distill.build.models import make_model, num_answers
from distill.build.plan import plan_run
from distill.data.sources.base import DataSource
from distill.engine.distiller import Distiller
from distill.engine.methods.ema_teacher import EmaTeacher
from distill.engine.methods.mutual import MutualDistiller
from distill.engine.methods.several_teachers import SeveralTeachers
from distill.engine.network import Network
from distill.engine.runtime import DTYPES
from distill.engine.teacher import Teacher
from distill.errors import DistillError, RecipeError
from distill.losses.base import DistillLoss
from distill.models.weights import WeightsReport
from distill.recipe import Recipe
from distill.recipe_teachers import shares, taught_by
from distill.resolve import Catalogue
from distill.structures import Batch, ModelInfo, Outputs

_PEER_SEED = 0x9E37_79B9_7F4A  # two students with the same initial weights would have nothing to teach each other


@dataclass(frozen=True)
class Pieces:
    """The parts of a run that hold weights."""

    distiller: Distiller
    teacher: Teacher | SeveralTeachers | EmaTeacher | None
    reports: dict[str, WeightsReport]  # "teacher", "student": what was loaded; absent where nothing was


def build_pieces(
    recipe: Recipe, catalogue: Catalogue, source: DataSource, *, device: torch.device, precision: str, weights: Mapping[str, str]
) -> Pieces:
    """weights: role -> a file, run folder or published name; a role that is not there keeps its initial weights.

    The student's initial weights depend on the recipe's seed alone, so that runs with other losses or no teacher start from the same student.
    """
    losses = make_losses(recipe, catalogue)
    student, student_report = _network("student", recipe.student, recipe, source, catalogue, losses, device, precision, weights.get("student"))
    reports, teachers = {"student": student_report}, {}
    for role, entry in taught_by(recipe).items():
        teachers[role], reports[role] = _network(role, entry, recipe, source, catalogue, losses, device, precision, weights.get(role))
    info, plan, peer = _info(student, recipe.student, source), plan_run(recipe, source, world_size=1), None
    data, teacher_info = training_data(source, recipe), info
    if recipe.method != "ema_teacher":
        teacher_info = _info_of_teachers(teachers, recipe, source, losses)
    if recipe.peer is not None:
        peer_losses = make_losses(recipe, catalogue)
        network, reports["peer"] = _network("peer", recipe.peer, recipe, source, catalogue, peer_losses, device, precision, weights.get("peer"))
        teacher_info = _info(network, recipe.peer, source)
        set_up(peer_losses, teacher_info, info, data, recipe.seed)
        network.freeze(recipe.peer.frozen)
        student.hand_pixels_to(network)
        peer = make_distiller(recipe, network, peer_losses, plan)
    set_up(losses, info, teacher_info, data, recipe.seed)
    student.freeze(recipe.student.frozen)
    distiller = make_distiller(recipe, student, losses, plan, peer=peer)
    distiller.to(device, DTYPES[precision] if precision == "fp64" else None)
    for network in list(teachers.values())[-1:]:  # it is asked right before the student
        network.hand_pixels_to(student)
    teacher: Any = _as_one([Teacher(network) for network in teachers.values()], recipe)
    if recipe.method == "ema_teacher":
        teacher = EmaTeacher(student, recipe.train.ema_decay)
    return Pieces(distiller, teacher, {role: report for role, report in reports.items() if report is not None})


def _as_one(teachers: Sequence[Teacher], recipe: Recipe) -> Teacher | SeveralTeachers | None:
    if recipe.teachers is not None:
        return SeveralTeachers(teachers, shares(recipe), is_sampled=recipe.answers == "sampled", seed=recipe.seed)
    return teachers[0] if teachers else None


def _info_of_teachers(teachers: Mapping[str, Network], recipe: Recipe, source: DataSource, losses: Mapping[str, DistillLoss]) -> ModelInfo | None:
    """What the losses are told of their teacher. Raises RecipeError by label for a loss that several teachers can't serve."""
    entries = taught_by(recipe)
    if recipe.teachers is None:
        return next((_info(network, entries[role], source) for role, network in teachers.items()), None)
    for label, loss in losses.items():
        if loss.layers and loss.needs_teacher:
            raise RecipeError(
                f"losses.{label}: it looks at features ({', '.join(loss.layers)}), and those of several teachers can't be combined: their networks "
                f"mean different things by them; remove it (losses.{label}=null), or name one teacher"
            )
    return ModelInfo(" + ".join(entry.model for entry in entries.values()), len(source.class_names))


def _info(network: Network, entry: schema.Network, source: DataSource) -> ModelInfo:
    return measure(network, entry.model, source.image_size, num_answers(entry, source.class_names))


def peer_of(pieces: Pieces) -> Network | None:
    """The other of two students that learn from each other."""
    return pieces.distiller.peer.student if isinstance(pieces.distiller, MutualDistiller) else None


def _network(
    role: str,
    entry: schema.Network,
    recipe: Recipe,
    source: DataSource,
    catalogue: Catalogue,
    losses: Mapping[str, DistillLoss],
    device: torch.device,
    precision: str,
    weights: str | None,
) -> tuple[Network, WeightsReport | None]:
    seed = (recipe.seed + (_PEER_SEED if role == "peer" else 0)) % 2**63
    model, report = make_model(entry, role, source.class_names, catalogue, image_size=source.image_size, seed=seed, weights=weights)
    require_layers(model, losses, entry.features, f"{role} {entry.model}")
    network = Network(
        model,
        mean=entry.mean or (report and report.mean) or source.mean,
        std=entry.std or (report and report.std) or source.std,
        layers=sorted({layer for loss in losses.values() for layer in loss.layers}),
        aliases=entry.features,
        autocast_dtype=DTYPES[precision] if precision in ("bf16", "fp16") else None,
        channels_last=recipe.train.channels_last,
        image_size=getattr(entry, "image_size", None),
    )
    dtype = torch.float64 if precision == "fp64" else None
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    return network.to(device, dtype).to(memory_format=memory_format), report


def rehearse(pieces: Pieces, source: DataSource, *, soft_labels: bool = False, unused: str = "error") -> list[str]:
    """One step on two pictures, in eval mode so that no statistic moves: finds before training what would fail in it.

    soft_labels: whether training will mix pictures. unused: "error" or "freeze", for parameters without a gradient. Returns what to tell the person.
    Raises RecipeError for such parameters, if a loss is not a finite scalar, or if it can't take the labels.
    """
    batch = made_up_batch(source, 2, pieces.distiller.student.mean.device, soft_labels=soft_labels)
    pieces.distiller.eval()
    teacher = pieces.teacher(batch) if pieces.teacher else None
    notes = [note for one, *answers in pieces.distiller.sides(batch, teacher) for note in _try_each_loss(one, batch, *answers)]
    output = pieces.distiller(batch, teacher)
    if not output.loss.requires_grad:
        raise RecipeError("no loss depends on the student: its output is detached, or every weight is 0")
    output.loss.backward()
    idle = {name: parameter for name, parameter in pieces.distiller.named_parameters() if parameter.requires_grad and parameter.grad is None}
    pieces.distiller.zero_grad(set_to_none=True)
    pieces.distiller.train()
    return notes + (_frozen(idle, unused) if idle else [])


def _try_each_loss(distiller: Distiller, batch: Batch, student: Outputs, teacher: Outputs | None) -> list[str]:
    """One by one, so that the message can name the loss that fails. Returns what to tell the person."""
    notes = []
    if batch.labels.ndim == 2:
        distiller.require_soft_labels()
    with torch.autocast(batch.images.device.type, enabled=False):
        for label, inputs in distiller.inputs(student, teacher, batch).items():
            try:
                term = distiller.losses[label](*inputs)
            except (DistillError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a stranger's class may raise anything
                if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
                    raise
                raise RecipeError(f"losses.{label}: its forward raised {type(error).__name__}: {error}") from error
            if not isinstance(term, Tensor) or not term.is_floating_point():
                kind = str(term.dtype).removeprefix("torch.") if isinstance(term, Tensor) else type(term).__name__
                raise RecipeError(f"losses.{label}: must give one finite number, as a tensor [] of floats; gave {kind}")
            if term.ndim or not term.isfinite():
                raise RecipeError(f"losses.{label}: must give one finite number, gave {term.tolist()} for two random pictures and initial weights")
            if not term.requires_grad and distiller.weights.get(label):
                notes.append(f"losses.{label}: for two random pictures its value does not depend on anything that is trained: is it detached?")
    return notes


def _frozen(idle: Mapping[str, nn.Parameter], unused: str) -> list[str]:
    """Freezes what no loss reaches, or raises RecipeError that names it: several processes would wait for its gradient."""
    names = [name.replace("peer.student.model.", "peer.").replace("student.model.", "student.") for name in idle]
    some = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if unused == "error":
        raise RecipeError(
            f"no loss reaches these parameters, they would never learn: {some}; add a loss that uses them, such as ce: {{weight: 1.0}}, or set "
            "train.unused=freeze to leave them as they are"
        )
    for parameter in idle.values():
        parameter.requires_grad_(False)
    return [f"no loss reaches {some}: frozen, as train.unused=freeze says; {'it keeps its' if len(names) == 1 else 'they keep their'} initial values"]


def weight_sources(recipe: Recipe, trained: Mapping[str, str]) -> dict[str, str]:
    """role -> where its weights come from, for build_pieces. trained: where those are that were trained for this recipe."""
    sources: dict[str, Any] = {"student": recipe.student.weights, "peer": recipe.peer and recipe.peer.weights}
    for role, teacher in taught_by(recipe).items():
        sources[role] = {"random": None, "train": trained.get(role)}.get(teacher.weights, teacher.weights)
    return {role: value for role, value in sources.items() if value is not None}
