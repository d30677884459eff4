"""The training steps that are compared: the framework's, loops written by hand, and other packages' as their users run them.

All train ResNet-18 under a teacher with 0.5 cross-entropy + 0.5 kd at temperature 4 and SGD, from the same weights, on the same views of the same
pictures in the same order. Each is a pair (runs one epoch, the list that grows by the loss of every epoch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.known import Known
from benchmarks.ready import make_pieces, make_trainer
from distill.data.random_rows import ViewTables, permutation
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.trainer import Trainer
from distill.models.folding import fold_batch_norms
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe

EMA_DECAY, CLIP_NORM = 0.999, 1.0
LR, MOMENTUM, WEIGHT_DECAY, TEMPERATURE, PADDING, FLIP = 0.001, 0.9, 5e-4, 4.0, 4, 0.5
MEAN, STD = 0.5, 0.25  # of the synthetic pictures

Contender = tuple[Callable[[], None], list[float]]


@dataclass(frozen=True)
class Setting:
    """What all contenders share."""

    source: Synthetic
    batch_size: int
    device: torch.device
    precision: str  # fp32 or bf16
    teacher: str = "resnet50"
    everything: bool = False  # with a moving average of the weights, and the gradient clipped; in the framework and the best loop by hand alone

    @property
    def num_classes(self) -> int:
        return len(self.source.class_names)

    def networks(self, channels_last: bool) -> tuple[nn.Module, nn.Module]:
        """(student, teacher), which is frozen and in eval mode."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        found = []
        for name in ("resnet18", self.teacher):
            torch.manual_seed(0)
            found.append(create_model(name, num_classes=self.num_classes).to(self.device, memory_format=layout))
        return found[0], found[1].eval().requires_grad_(False)

    def batches(self, channels_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (normalised pictures, labels), by the same code as the framework's."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        pixels, labels = self.source.train.pixels.to(self.device), torch.from_numpy(self.source.train.labels).to(self.device)
        views = Views(self.source.image_size, crop="padded", padding=PADDING, flip=FLIP)
        mean, scale = (torch.full((1, 3, 1, 1), value, device=self.device) for value in (255 * MEAN, 1 / (255 * STD)))
        tables, order = ViewTables(0, 0, len(labels)), permutation(0, 0, len(labels))
        for start in range(0, len(labels) - self.batch_size + 1, self.batch_size):
            ids = order[start : start + self.batch_size]
            images = views.apply(pixels[ids], tables.of(ids)).to(torch.float32, memory_format=layout).sub_(mean).mul_(scale)
            yield images, labels[ids]


def framework(setting: Setting) -> Contender:
    """`distill train`'s own trainer, with all that it does in a step."""
    trainer, losses = _framework(setting)
    return _epochs_of(trainer), losses


def framework_cached(setting: Setting) -> Contender:
    """The same with the teacher's answers there already: what a second run, seed or student does."""
    trainer, losses = _framework(setting)
    trainer.teacher = Known([trainer.teacher(batch) for batch in trainer.loader.epoch(0)])
    return _epochs_of(trainer), losses


def _framework(setting: Setting) -> tuple[Trainer, list[float]]:
    overrides = [f"teacher.model={setting.teacher}", "teacher.weights=random", f"data.global_batch_size={setting.batch_size}"]
    overrides += [f"data.augment.padding={PADDING}", f"data.augment.flip={FLIP}", "train.epochs=1", f"train.lr={LR}", "train.schedule=constant"]
    overrides += ["train.warmup_epochs=0", "train.log_every=1000000"]
    if setting.everything:
        overrides += [f"train.ema_decay={EMA_DECAY}", f"train.clip_norm={CLIP_NORM}"]
    recipe, losses = load_recipe("r50_to_r18", overrides), []
    pieces = make_pieces(recipe, setting.source, setting.device, setting.precision)

    def log(event: dict) -> None:
        if event["event"] == "train":
            losses.append(event["loss"])

    return make_trainer(recipe, setting.source, pieces, setting.precision, log), losses


def _epochs_of(trainer: Trainer) -> Callable[[], None]:
    def run() -> None:
        trainer.step = trainer.epoch = 0
        trainer.train(until=trainer.num_steps)  # without what comes after an epoch: its evaluation, and a copy of everything to be saved

    return run


def hand_written(setting: Setting) -> Contender:
    """What a person would write who knows all of the framework's tricks: a folded teacher in half precision, fused SGD, running means without
    waiting, a finite check on the device; and where it is asked for, an average of the weights in one call and the gradient clipped."""
    student, teacher = setting.networks(channels_last=True)
    size = setting.source.image_size
    fold_batch_norms(teacher, torch.zeros(2, 3, size, size, device=setting.device))
    teacher = teacher.to(torch.bfloat16 if setting.precision == "bf16" else torch.float32)
    decayed = [parameter for parameter in student.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in student.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, nesterov=True, fused=True)
    averaged = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY)) if setting.everything else None
    is_mixed, losses = setting.precision == "bf16", []

    def run() -> None:
        student.train()
        rows, norms = [], []
        for images, labels in setting.batches(channels_last=True):
            with torch.no_grad():
                theirs = teacher(images.bfloat16() if is_mixed else images).float()
            with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=is_mixed):
                ours = student(images)
            ours = ours.float()
            ce, kd = F.cross_entropy(ours, labels), _kd(ours, theirs)
            loss = 0.5 * ce + 0.5 * kd
            loss.backward()
            rows.append(torch.stack([loss.detach(), ce.detach(), kd.detach(), (ours.detach().argmax(1) == labels).float().mean()]))
            if setting.everything:
                norms.append(clip_grad_norm_(student.parameters(), CLIP_NORM))
            else:
                norms.append(get_total_norm([parameter.grad for parameter in student.parameters()]))
            optimizer.found_inf = (~norms[-1].isfinite()).float()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if averaged is not None:
                averaged.update_parameters(student)
        losses.append(torch.stack(rows).mean(dim=0)[0].item())
        if not torch.stack(norms).isfinite().all():
            raise ArithmeticError("not finite")

    return run, losses


def naive(setting: Setting) -> Contender:
    """As in a tutorial: float32, channels first, the loss read in every step."""
    student, teacher = setting.networks(channels_last=False)
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    losses = []

    def run() -> None:
        student.train()
        total = num = 0
        for images, labels in setting.batches(channels_last=False):
            with torch.no_grad():
                theirs = teacher(images)
            ours = student(images)
            loss = 0.5 * F.cross_entropy(ours, labels) + 0.5 * _kd(ours, theirs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, num = total + loss.item(), num + 1
        losses.append(total / num)

    return run, losses


def timm_default(setting: Setting) -> Contender:
    """timm's LogitDistillationTask, as train.py --kd-model-name runs it without further flags."""
    return _timm(setting, has_flags=False)


def timm_best(setting: Setting) -> Contender:
    """The same with --amp --amp-dtype bfloat16 --channels-last, in a bf16 setting."""
    return _timm(setting, has_flags=True)


def _timm(setting: Setting, *, has_flags: bool) -> Contender:
    from timm.task import LogitDistillationTask  # newer than the oldest timm that distill works with

    student, teacher = setting.networks(channels_last=False)
    networks = []
    for name, network in (("resnet18", student), (setting.teacher, teacher)):  # timm's own, with the weights that all begin with
        made = timm.create_model(name, num_classes=setting.num_classes)
        made.load_state_dict(network.state_dict())
        networks.append(made.to(setting.device, memory_format=torch.channels_last if has_flags else torch.contiguous_format))
    weights = {"distill_loss_weight": 0.5, "task_loss_weight": 0.5, "temperature": TEMPERATURE}
    task = LogitDistillationTask(*networks, criterion=nn.CrossEntropyLoss(), device=setting.device, verbose=False, **weights)
    optimizer = create_optimizer_v2(networks[0], opt="sgd", lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    is_mixed, losses = has_flags and setting.precision == "bf16", []

    def run() -> None:
        task.train()
        total, num = torch.zeros((), device=setting.device), 0
        for images, labels in setting.batches(channels_last=has_flags):
            with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=is_mixed):
                loss = task(images, labels)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total, num = total + loss.detach(), num + 1
        losses.append(total.item() / num)

    return run, losses


def torchdistill_shipped(setting: Setting) -> Contender:
    """torchdistill's DistillationBox with KDLoss, float32 and channels first, and the loss read in every step as its examples do."""
    from torchdistill.core.distillation import DistillationBox

    student, teacher = setting.networks(channels_last=False)
    paths = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in (("path", "."), ("io", "output"))}
    kd = {"key": "KDLoss", "kwargs": {**paths, "temperature": TEMPERATURE, "alpha": 0.5, "reduction": "batchmean"}}
    sgd = {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "nesterov": True}
    network = {"forward_proc": "forward_batch_only", "sequential": [], "wrapper": None}
    config = {
        "num_epochs": 1,
        "teacher": {**network, "requires_grad": False},
        "student": network,
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        "optimizer": {"key": "SGD", "kwargs": sgd},
    }
    box = DistillationBox(teacher, student, {}, config, setting.device, None, False, 1)
    losses = []

    def run() -> None:
        box.pre_epoch_process(epoch=0)
        total = num = 0
        for images, labels in setting.batches(channels_last=False):
            loss = box.forward_process(images, labels, {})
            box.post_forward_process(loss)
            total, num = total + loss.item(), num + 1
        losses.append(total / num)

    return run, losses


def _kd(ours: Tensor, theirs: Tensor) -> Tensor:
    log_p, log_q = (F.log_softmax(logits / TEMPERATURE, 1) for logits in (theirs, ours))
    return TEMPERATURE**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
