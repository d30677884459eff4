"""python -m benchmarks.overhead [--quick] [--json FILE] [--markdown FILE]

What the framework itself takes in a training step, in microseconds: with networks that have almost nothing to compute, its own trainer (loader, kd +
ce, running means, the check that everything is finite, fused SGD) beside the same step written by hand, in one process and in turn. The target is 150
microseconds a step. One thread, because such small work is only slowed by several. About 2 minutes, half a minute with --quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contenders import FLIP, LR, MEAN, MOMENTUM, PADDING, STD, TEMPERATURE, WEIGHT_DECAY, Contender, Setting, hand_written
from benchmarks.interleave import difference_of, show_round, time_in_turn
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from benchmarks.step import require_same_losses
from distill.data.loader import TrainingLoader
from distill.data.sampler import StepSampler
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.distiller import Distiller
from distill.engine.network import Network
from distill.engine.optim import make_optimizer, make_schedule
from distill.engine.runtime import make_accelerator, prepare_process, processes
from distill.engine.teacher import Teacher
from distill.engine.trainer import Trainer
from distill.losses.ce import CrossEntropy
from distill.losses.kd import KD

BATCH_SIZE, IMAGE_SIZE, TARGET = 8, 8, 150  # microseconds
CLOCK = "whole steps of an epoch: views made from pictures in memory, teacher, student, kd + ce, backward, optimizer, and the epoch's one report."


WORDS = {
    "framework": "the framework's whole step",
    "hand_written": "the step by hand",
    "loader": "of the framework's: its loader alone",
    "views": "of the one by hand: its views alone",
}


class Null(nn.Module):
    """A convolution of one pixel and a linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.conv(pixels).mean(dim=(2, 3)))  # [N, 3, H, W] -> [N, K]


class NullSetting(Setting):
    """As the other contenders', with two networks that have nothing to do."""

    def networks(self, channels_last: bool) -> tuple[nn.Module, nn.Module]:
        layout, found = torch.channels_last if channels_last else torch.contiguous_format, []
        for _ in range(2):
            torch.manual_seed(0)
            found.append(Null(self.num_classes).to(self.device, memory_format=layout))
        return found[0], found[1].eval().requires_grad_(False)


def make_loader(setting: Setting) -> TrainingLoader:
    views = Views(setting.source.image_size, crop="padded", padding=PADDING, flip=FLIP)
    sampler = StepSampler(len(setting.source.train), setting.batch_size, seed=0)
    return TrainingLoader(setting.source.train, views, sampler, view_seed=0, num_views=1, device=setting.device)


def framework(setting: Setting) -> Contender:
    """The trainer as distill.build makes it, around networks that no recipe can name."""
    student, teacher = (Network(model, mean=(MEAN,) * 3, std=(STD,) * 3).to(setting.device) for model in setting.networks(channels_last=True))
    teacher.hand_pixels_to(student)
    distiller = Distiller(student, {"ce": CrossEntropy(), "kd": KD(temperature=TEMPERATURE)}, {"ce": 0.5, "kd": 0.5})
    loader, losses = make_loader(setting), []

    def log(event: dict) -> None:
        if event["event"] == "train":
            losses.append(event["loss"])

    trainer = Trainer(
        accelerator=make_accelerator(),
        distiller=distiller,
        teacher=Teacher(teacher),
        optimizer=make_optimizer(distiller, name="sgd", lr=LR, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM),
        loader=loader,
        schedule=make_schedule(lr=LR, num_steps=loader.steps_per_epoch, kind="constant"),
        num_steps=loader.steps_per_epoch,
        evaluate=lambda check: {"val_top1": 0.0},
        log=log,
        log_every=1000000,
    )

    def run() -> None:
        trainer.step = trainer.epoch = 0
        trainer.train(until=trainer.num_steps)  # without what comes after an epoch: its evaluation, and a copy of everything to be saved

    return run, losses


def loader_alone(setting: Setting) -> Callable[[], None]:
    loader = make_loader(setting)

    def run() -> None:
        for _ in loader.epoch(0):
            pass

    return run


def views_alone(setting: Setting) -> Callable[[], None]:
    """What the step by hand does for its pictures."""

    def run() -> None:
        for _ in setting.batches(channels_last=True):
            pass

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("overhead", __doc__, quick="10 rounds in place of 60")
    parser.add_argument("--steps", type=int, default=200, help="steps in a block")
    parser.add_argument("--rounds", type=int, help="blocks of each contender")
    options = parse(parser, arguments)
    prepare_process()
    device, num_threads = processes().device, torch.get_num_threads()
    torch.set_num_threads(1)
    source = Synthetic(image_size=IMAGE_SIZE, num_classes=10, num_train=BATCH_SIZE * options.steps, num_val=10, num_test=10)
    setting = NullSetting(source, BATCH_SIZE, device, "fp32")
    made = {"framework": framework(setting), "hand_written": hand_written(setting)}
    for run, _ in made.values():
        run()
    require_same_losses({name: losses for name, (_, losses) in made.items()}, "fp32")
    runs = {name: run for name, (run, _) in made.items()} | {"loader": loader_alone(setting), "views": views_alone(setting)}
    rounds = options.rounds or (10 if options.quick else 60)
    seconds = time_in_turn(runs, num_rounds=rounds, progress=show_round(rounds))
    torch.set_num_threads(num_threads)
    micros = {name: 1e6 * values / options.steps for name, values in seconds.items()}
    rows = [(words, f"{np.median(micros[name]):,.1f}") for name, words in WORDS.items()]
    more = difference_of(micros["framework"] - micros["hand_written"])
    rows.append((f"the framework's own part (target: {TARGET})", str(more)))
    values = {"own": asdict(more), "target_us": TARGET, "us_per_step": {name: float(np.median(values)) for name, values in micros.items()}}
    table = Table("What the framework takes in a step with nothing to compute", ("what", "microseconds a step (95 % interval)"), rows)
    publish(options, table, values, Conditions(device, "fp32", CLOCK, num_threads=1))


if __name__ == "__main__":
    main()
