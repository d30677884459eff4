"""Builds the loaders, the optimizer and the trainer of a run from its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.build.loaders import Warn, evaluation_loader, training_loader
from distill.build.pieces import Pieces, peer_of
from distill.build.plan import Plan, plan_run
from distill.data.loader import EvaluationLoader
from distill.data.sources.base import DataSource
from distill.engine.distiller import Distiller
from distill.engine.evaluation import score
from distill.engine.methods.ema_teacher import EmaTeacher
from distill.engine.network import Network
from distill.engine.optim import Schedule, make_optimizer, make_schedule
from distill.engine.saving import Saving
from distill.engine.stopping import Stopper
from distill.engine.teacher import Asked
from distill.engine.trainer import Evaluate, Log, Trainer
from distill.recipe import Recipe, Train


def build_trainer(
    recipe: Recipe,
    source: DataSource,
    pieces: Pieces,
    accelerator: Accelerator,
    *,
    precision: str,
    log: Log,
    saving: Saving | None = None,
    stopper: Stopper | None = None,
    teacher: Asked | None = None,
    warn: Warn = print,
) -> tuple[Trainer, Network]:
    """(the trainer, at the checkpoint that saving starts from if there is one; the network that is scored and kept: the student, or its moving
    average where the recipe has one). teacher: what is asked in place of the network in `pieces`, such as its kept answers."""
    train, plan = recipe.train, plan_run(recipe, source, accelerator.num_processes)
    averaged, scored = None, pieces.distiller.student
    if isinstance(pieces.teacher, EmaTeacher):
        averaged, scored = pieces.teacher.averaged, pieces.teacher.network
    elif train.ema_decay is not None:
        averaged = AveragedModel(scored.model, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay))
        scored = scored.like(averaged.module)
    networks = {"": scored} | ({"peer_": peer_of(pieces)} if recipe.peer is not None else {})
    trainer = Trainer(
        accelerator=accelerator,
        distiller=pieces.distiller,
        teacher=teacher or pieces.teacher,
        optimizer=_optimizer(train, pieces.distiller),
        loader=training_loader(recipe, source, accelerator=accelerator, warn=warn),
        schedule=_schedule(train, plan),
        num_steps=plan.num_steps,
        evaluate=_evaluation(networks, evaluation_loader(recipe, source, source.val, accelerator, warn), accelerator),
        log=log,
        log_every=train.log_every,
        log_gradients_every=train.log_gradients_every,
        clip_norm=train.clip_norm,
        averaged=averaged,
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=precision == "fp16"),
        seed=recipe.seed,
        saving=saving,
        stopper=stopper,
    )
    if saving is not None and saving.start is not None:
        trainer.restore()
    return trainer, scored


def _optimizer(train: Train, distiller: Distiller) -> torch.optim.Optimizer:
    return make_optimizer(
        distiller,
        name=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        nesterov=train.nesterov,
        betas=train.betas,
    )


def _schedule(train: Train, plan: Plan) -> Schedule:
    return make_schedule(
        lr=train.lr,
        num_steps=plan.num_steps,
        warmup_steps=round(train.warmup_epochs * plan.steps_per_epoch),
        kind=train.schedule,
        milestones=train.milestones,
        gamma=train.gamma,
        final_lr_fraction=train.final_lr_fraction,
    )


def _evaluation(networks: Mapping[str, Network], loader: EvaluationLoader, accelerator: Accelerator) -> Evaluate:
    """networks: by what stands before the names of their scores."""

    def evaluate(check: Callable[[], None]) -> dict[str, float]:
        found = score(networks, loader, accelerator, check)
        return {f"{prefix}{name}": value for prefix, one in found.items() for name, value in (("val_top1", one.top1), ("val_nll", one.nll))}

    return evaluate
