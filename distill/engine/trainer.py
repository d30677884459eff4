"""The training loop. It knows networks, batches and steps; nothing of recipes, folders or screens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import distribute_bn
from torch.optim.swa_utils import AveragedModel

from distill.data.loader import TrainingLoader
from distill.engine.distiller import Distiller
from distill.engine.gradients import Gradients, auto_weights, measure_gradients
from distill.engine.metrics import RunningMeans
from distill.engine.optim import Schedule, set_learning_rate
from distill.engine.teacher import Teacher
from distill.errors import DivergedError
from distill.structures import Batch, Outputs, StepOutput

Log = Callable[[Mapping[str, Any]], None]


class Trainer:
    """Trains a Distiller for a number of steps, on any number of processes."""

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        distiller: Distiller,
        teacher: Teacher | None,
        optimizer: torch.optim.Optimizer,
        loader: TrainingLoader,
        schedule: Schedule,
        num_steps: int,
        evaluate: Callable[[], Mapping[str, float]],
        log: Log,
        log_every: int = 20,
        log_gradients_every: int = 0,
        clip_norm: float | None = None,
        averaged: AveragedModel | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        """evaluate is called after every epoch, on all processes; log receives "train", "epoch", "gradients" and "weights" events, on all processes
        too. log_gradients_every: steps between two "gradients" events; 0 for none."""
        self.accelerator, self.teacher, self.loader, self.schedule = accelerator, teacher, loader, schedule
        self.num_steps, self.log_every, self.log_gradients_every, self.clip_norm = num_steps, log_every, log_gradients_every, clip_norm
        self.evaluate, self.log, self.averaged = evaluate, log, averaged
        self.scaler = scaler or torch.amp.GradScaler(accelerator.device.type, enabled=False)
        self.labels = list(distiller.losses)
        self.distiller, self.optimizer = accelerator.prepare(distiller, optimizer)
        self.step, self._begun = 0, -1

    def train(self) -> None:
        """Raises DivergedError when the loss is not finite, before it can reach the weights where the device can be asked at no cost."""
        self._means, self._since = RunningMeans(self.labels), time.perf_counter()
        epoch = 0
        while self.step < self.num_steps:
            self.distiller.train()
            for batch in self.loader.epoch(epoch):
                teacher = self.teacher(batch) if self.teacher else None
                self._begin_step(epoch, batch, teacher)
                with self.accelerator.accumulate(self.distiller):
                    output = self.distiller(batch, teacher)
                    self._stop_if_diverged(output)
                    self.accelerator.backward(self.scaler.scale(output.loss))
                    self._means.update(output, batch.labels)
                    if self.accelerator.sync_gradients:
                        self._update(epoch)
                if self.step == self.num_steps:
                    break
            self._end_epoch(epoch)
            epoch += 1

    def _begin_step(self, epoch: int, batch: Batch, teacher: Outputs | None) -> None:
        """Schedules, and what is measured on the first part of some steps' batches."""
        if self.step == self._begun:
            return
        self._begun, distiller = self.step, self.accelerator.unwrap_model(self.distiller)
        distiller.set_step(self.step)
        if self.step == 0 and distiller.auto and not distiller.is_balanced:
            weights = auto_weights(distiller.auto, self._gradients(batch, teacher))
            distiller.balance(weights)
            self.log({"event": "weights", "epoch": epoch + 1, "step": 0, **weights})
        if self.log_gradients_every and self.step % self.log_gradients_every == 0:
            measured = self._gradients(batch, teacher)
            terms = {label: gradient._asdict() for label, gradient in measured.terms.items()}
            event = {"event": "gradients", "epoch": epoch + 1, "step": self.step, "cross_entropy_norm": measured.cross_entropy_norm, "terms": terms}
            self.log(event)

    def _gradients(self, batch: Batch, teacher: Outputs | None) -> Gradients:
        return measure_gradients(self.accelerator.unwrap_model(self.distiller), batch, teacher, self.accelerator, self.scaler.get_scale())

    def _update(self, epoch: int) -> None:
        """One step of the optimizer, and a report every few of them."""
        rate = self.schedule(self.step)
        set_learning_rate(self.optimizer, rate)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.accelerator.clip_grad_norm_(self.distiller.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.accelerator.unwrap_model(self.distiller).student.model)
        self.step += 1
        if self.step % self.log_every == 0 or self.step == self.num_steps:
            self._report(epoch, rate)

    def _report(self, epoch: int, rate: float) -> None:
        means, seconds = self._means.read(), time.perf_counter() - self._since
        self._raise_if_not_finite(means)
        steps = self.step % self.log_every or self.log_every
        speed = steps * self.loader.sampler.global_batch_size / seconds
        self.log({"event": "train", "epoch": epoch + 1, "step": self.step, "lr": rate, **means, "images_per_second": round(speed, 1)})
        self._since = time.perf_counter()

    def _end_epoch(self, epoch: int) -> None:
        if self.accelerator.num_processes > 1:  # each process has gathered BatchNorm statistics of its own pictures
            distribute_bn(self.distiller, self.accelerator.num_processes, reduce=True)
            if self.averaged is not None:
                distribute_bn(self.averaged, self.accelerator.num_processes, reduce=True)
        started = time.perf_counter()
        self.log({"event": "epoch", "epoch": epoch + 1, "step": self.step, **self.evaluate()})
        self._since += time.perf_counter() - started  # evaluation is not part of the training speed

    def _stop_if_diverged(self, output: StepOutput) -> None:
        if output.loss.device.type == "cpu" and not output.loss.isfinite():  # on a GPU the question would stall every step
            self._raise_if_not_finite({label: term.item() for label, term in output.terms.items()} | {"loss": output.loss.item()})

    def _raise_if_not_finite(self, means: Mapping[str, float]) -> None:
        bad = [name for name, value in means.items() if not abs(value) < float("inf")]
        if bad:
            names = [name for name in bad if name != "loss"] or bad
            what = " and ".join(f"the loss {name!r} is {means[name]}" for name in names)
            raise DivergedError(
                f"step {self.step + 1}: {what}; usual causes are a learning rate that is too high (train.lr, now {self.schedule(self.step):.3g}), a "
                f"weight that is too large (losses.{names[0]}.weight), no clipping (train.clip_norm=1.0) or precision fp16 (train.precision=auto)"
            )
