"""The training loop. It knows networks, batches and steps; nothing of recipes, folders or screens."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from distill.data.loader import TrainingLoader
from distill.engine.distiller import Distiller
from distill.engine.divergence import stop_if_not_finite, stop_if_weights_are_not_finite
from distill.engine.gradients import Gradients, auto_weights, measure_gradients
from distill.engine.metrics import StepLog
from distill.engine.optim import Schedule, set_learning_rate
from distill.engine.runtime import seed_step
from distill.engine.saving import Saving
from distill.engine.snapshot import Trained
from distill.engine.stopping import Stopper, stopped
from distill.engine.teacher import Asked, with_answers
from distill.errors import StoppedError
from distill.structures import Batch, Outputs

Log = Callable[[Mapping[str, Any]], None]
Evaluate = Callable[[Callable[[], None]], Mapping[str, float]]


class Trainer:
    """Trains a Distiller for a number of steps, on any number of processes, from the beginning or from a checkpoint."""

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        distiller: Distiller,
        teacher: Asked | None,
        optimizer: torch.optim.Optimizer,
        loader: TrainingLoader,
        schedule: Schedule,
        num_steps: int,
        evaluate: Evaluate,
        log: Log,
        log_every: int = 20,
        log_gradients_every: int = 0,
        clip_norm: float | None = None,
        averaged: AveragedModel | None = None,
        scaler: torch.amp.GradScaler | None = None,
        seed: int = 0,
        saving: Saving | None = None,
        stopper: Stopper | None = None,
    ):
        """optimizer: in the fused form, which can be told on the device to leave out a step. evaluate is called after every epoch, on all processes,
        with a function that it calls now and then, on all processes alike; it gives at least "val_top1". log receives "train", "epoch", "gradients"
        and "weights" events, on all processes too. log_gradients_every: steps between two "gradients" events; 0 for none."""
        self.accelerator, self.teacher, self.loader, self.schedule = accelerator, teacher, loader, schedule
        self.num_steps, self.log_every, self.log_gradients_every, self.clip_norm = num_steps, log_every, log_gradients_every, clip_norm
        self.evaluate, self.log, self.averaged, self.seed = evaluate, log, averaged, seed
        self.scaler = scaler or torch.amp.GradScaler(accelerator.device.type, enabled=False)
        self.saving, self.stopper = saving or Saving(), stopper or Stopper()
        self.trained = Trained(distiller, optimizer, averaged, self.scaler, accelerator)
        self.parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`?broadcast_buffers`? is deprecated")  # Accelerate's name for it is still this one
            self.distiller = accelerator.prepare(distiller)
        self.optimizer = optimizer  # Accelerate's wrapping serves what is not used here, and looks for packages in every step: half of our own time
        self.step = self.epoch = 0  # steps done, epochs done and evaluated
        self.best = -math.inf  # the highest val_top1 so far
        self.recent = StepLog(distiller.labels, has_labels=loader.has_labels, counts_replaced=loader.bad_pictures is not None)
        self._begun = -1

    def restore(self) -> None:
        """Goes on from the checkpoint that `saving` names."""
        checkpoint = self.saving.start
        self.trained.restore(checkpoint.path)
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        self.best = -math.inf if checkpoint.state["best"] is None else checkpoint.state["best"]
        self.recent.restore(checkpoint.state["recent"], self.accelerator)

    def train(self, until: int | None = None) -> None:
        """until: the number of steps after which to return, before anything else happens; None for all, with every evaluation.

        Raises DivergedError when a loss or a gradient was not finite, which never reaches the weights; StoppedError, after saving, when asked to.
        """
        self._since, self._steps_since, self._saved_at = time.perf_counter(), 0, time.perf_counter()
        device = self.accelerator.device
        with self.stopper.deferred(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            while self.epoch * self.loader.steps_per_epoch < self.num_steps:
                self._train_epoch(self.num_steps if until is None else until)
                if self.step == until:
                    return
                self._end_epoch()

    def _train_epoch(self, last: int) -> None:
        """What is left of the epoch's steps; nothing, where only its evaluation is missing."""
        self.distiller.train()
        first = self.step - self.epoch * self.loader.steps_per_epoch
        if self.step == last or first == self.loader.steps_per_epoch:
            return
        parts = self.loader.sampler.accumulation
        for number, (batch, teacher) in enumerate(with_answers(self.loader.epoch(self.epoch, first), self.teacher, parts)):
            seed_step(self.accelerator.device, self.seed, self.step, number % parts, self.accelerator.process_index)
            self._begin_step(batch, teacher)
            is_last = number % parts == parts - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.distiller):
                output = self.distiller(batch, teacher)
                self._backward(output.loss)
            self.recent.add(output, batch)
            if is_last:
                self._update()
                self._save_or_stop()
            if self.step == last:
                break

    def _backward(self, loss: Tensor) -> None:
        """As Accelerate's, which also divides by 1; what synchronises the processes hangs on the parameters, not on it."""
        parts = self.loader.sampler.accumulation
        self.scaler.scale(loss / parts if parts > 1 else loss).backward()

    def _begin_step(self, batch: Batch, teacher: Outputs | None) -> None:
        """Schedules, and what is measured on the first part of some steps' batches."""
        if self.step == self._begun:
            return
        self._begun, distiller = self.step, self.trained.distiller
        distiller.set_step(self.step)
        if self.step == 0 and distiller.auto and not distiller.is_balanced:
            weights = auto_weights(distiller.auto, self._gradients(batch, teacher))
            distiller.balance(weights)
            self.log({"event": "weights", "epoch": self.epoch + 1, "step": 0, **weights})
        if self.log_gradients_every and self.step % self.log_gradients_every == 0:
            measured = self._gradients(batch, teacher)
            terms = {label: gradient._asdict() for label, gradient in measured.terms.items()}
            position = {"event": "gradients", "epoch": self.epoch + 1, "step": self.step}
            self.log({**position, "cross_entropy_norm": measured.cross_entropy_norm, "terms": terms})

    def _gradients(self, batch: Batch, teacher: Outputs | None) -> Gradients:
        return measure_gradients(self.trained.distiller, batch, teacher, self.accelerator, self.scaler.get_scale())

    def _update(self) -> None:
        """One step of the optimizer, and a report every few of them."""
        rate = self.schedule(self.step)
        set_learning_rate(self.optimizer, rate)
        self._guard()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for parameter in self.parameters:  # as zero_grad does, without its marks for profilers, which take longer than the work
            parameter.grad = None
        if self.averaged is not None:
            self.averaged.update_parameters(self.trained.distiller.student.model)
        self.step, self._steps_since = self.step + 1, self._steps_since + 1
        if self.step % self.log_every == 0 or self.step == self.num_steps:
            self._report(rate)

    def _guard(self) -> None:
        """Clips the gradient; has the optimizer leave out the step, on the device, if it is not finite. An fp16 scaler does that by itself."""
        norm = None
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = self.accelerator.clip_grad_norm_(self.parameters, self.clip_norm)
        if not self.scaler.is_enabled():
            norm = get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None]) if norm is None else norm
            optimizer: Any = self.optimizer  # torch's fused ones look for found_inf on themselves
            optimizer.found_inf = (~norm.isfinite()).to(torch.float32)
            self.recent.add_norm(norm)

    def _report(self, rate: float) -> None:
        rows, seconds = self._finite_rows(), time.perf_counter() - self._since
        speed = self._steps_since * self.loader.sampler.global_batch_size / seconds
        means = self.recent.means(rows)
        self.log({"event": "train", "epoch": self.epoch + 1, "step": self.step, "lr": rate, **means, "images_per_second": round(speed, 1)})
        self.recent.clear()
        self._since, self._steps_since = time.perf_counter(), 0

    def _finite_rows(self) -> Tensor:
        """What was noted since the last report; raises DivergedError in all processes alike if any of it is not finite."""
        rows = self.recent.rows(self.accelerator)
        stop_if_not_finite(self.recent, rows, self.loader, self.step, self.schedule)
        return rows

    def _save_or_stop(self) -> None:
        interval = 60 * (self.saving.every_minutes or math.inf)
        answer = self.stopper.poll(lambda: time.perf_counter() - self._saved_at > interval)
        if answer.saves or answer.reason or (self.saving.every_steps and self.step % self.saving.every_steps == 0):
            self._save()
        if answer.reason:
            self._leave(stopped(answer.reason))

    def _leave(self, error: StoppedError) -> None:
        self.accelerator.wait_for_everyone()  # or a launcher would end the first process, which is still writing, because the others are gone
        raise error

    def _save(self, *, is_best: bool = False) -> None:
        """A checkpoint of this moment; in which nothing is that came after a value that was not finite."""
        stop_if_weights_are_not_finite(self.parameters, self.loader, self.step, self.schedule)
        state = {"best": self.best if math.isfinite(self.best) else None, "recent": self.recent.state(self._finite_rows())}
        writers = self.trained.writers()
        if self.accelerator.is_main_process and self.saving.save is not None:
            self.saving.save(self.step, self.epoch, state, writers, is_best)
        self._saved_at = time.perf_counter()

    def _end_epoch(self) -> None:
        self.trained.average_statistics()  # each process has those of its own pictures
        started = time.perf_counter()
        try:
            result = self.evaluate(self.stopper.check)
        except StoppedError as error:
            self._save()
            self._leave(error)
        self.log({"event": "epoch", "epoch": self.epoch + 1, "step": self.step, **result})
        self.epoch += 1
        is_best, self.best = result["val_top1"] > self.best, max(result["val_top1"], self.best)
        if is_best or self.step == self.num_steps:
            self._save(is_best=is_best)
        self._since += time.perf_counter() - started  # evaluation and saving are not part of the training speed
