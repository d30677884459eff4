"""python -m benchmarks.step [--quick] [--json FILE]

How much a training step costs in the framework, against a loop written by hand that does the same arithmetic: the same views, ResNet-50 -> ResNet-18,
kd + ce, bf16 where it is fast, channels-last, fused SGD, running means, a finite check. About 4 minutes on 2 CPU cores, 1 with --quick.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils import get_total_norm

from benchmarks.interleave import interleave
from distill.build.pieces import build_pieces
from distill.build.trainer import build_trainer
from distill.data.random_rows import ViewTables, permutation
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.runtime import make_accelerator, processes, resolve_precision, use_all_cores
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.record import environment
from distill.resolve import Catalogue

LR, PADDING, NUM_CLASSES = 0.01, 4, 10


def framework(source: Synthetic, batch_size: int, device: torch.device, precision: str) -> tuple[Callable[[], None], list[dict]]:
    """(runs one epoch, the list that its log grows)"""
    overrides = ["teacher.weights=random", f"data.global_batch_size={batch_size}", f"data.augment.padding={PADDING}", "data.augment.flip=0.5"]
    overrides += ["train.epochs=1", f"train.lr={LR}", "train.schedule=constant", "train.warmup_epochs=0", "train.log_every=1000000"]
    recipe, events = load_recipe("r50_to_r18", overrides), []
    pieces = build_pieces(recipe, Catalogue(), source, device=device, precision=precision, weights={})
    trainer, _ = build_trainer(recipe, source, pieces, make_accelerator(), precision=precision, log=events.append)
    trainer.evaluate = lambda check: {"val_top1": 0.0}

    def run() -> None:
        trainer.step = trainer.epoch = 0
        trainer.train()

    return run, events


def hand_written(source: Synthetic, batch_size: int, device: torch.device, precision: str) -> tuple[Callable[[], None], list[dict]]:
    """What a person would write who knows all of the same tricks."""
    torch.manual_seed(0)
    student = create_model("resnet18", num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last)
    torch.manual_seed(0)
    teacher = create_model("resnet50", num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    decayed = [parameter for parameter in student.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in student.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9, nesterov=True, fused=True)
    mean, scale = (torch.full((1, 3, 1, 1), value, device=device) for value in (255 * 0.5, 1 / (255 * 0.25)))
    views, pixels, labels = (
        Views(source.image_size, crop="padded", padding=PADDING, flip=0.5),
        source.train.pixels.to(device),
        torch.from_numpy(source.train.labels),
    )
    dtype, losses = torch.bfloat16 if precision == "bf16" else torch.float32, []

    def run() -> None:
        student.train()
        tables, order, rows, norms = ViewTables(0, 0, len(labels)), permutation(0, 0, len(labels)), [], []
        for start in range(0, len(labels) - batch_size + 1, batch_size):
            ids = order[start : start + batch_size]
            images = views.apply(pixels[ids], tables.of(ids)).to(torch.float32, memory_format=torch.channels_last).sub_(mean).mul_(scale)
            answers = labels[ids].to(device)
            with torch.autocast(device.type, dtype=dtype, enabled=precision == "bf16"):
                with torch.no_grad():
                    theirs = teacher(images).float()
                ours = student(images)
            ours = ours.float()
            ce = F.cross_entropy(ours, answers)
            kd = 16 * F.kl_div(F.log_softmax(ours / 4, 1), F.log_softmax(theirs / 4, 1), reduction="batchmean", log_target=True)
            loss = 0.5 * ce + 0.5 * kd
            loss.backward()
            rows.append(torch.stack([loss.detach(), ce.detach(), kd.detach(), (ours.detach().argmax(1) == answers).float().mean()]))
            norms.append(get_total_norm([parameter.grad for parameter in student.parameters()]))
            optimizer.found_inf = (~norms[-1].isfinite()).float()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        values = torch.stack(rows).mean(dim=0).tolist()
        if not torch.stack(norms).isfinite().all():
            raise ArithmeticError("not finite")
        losses.append({"event": "train", "loss": values[0], "ce": values[1], "kd": values[2]})

    return run, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="steps in a block")
    options = parser.parse_args()
    use_all_cores()
    device = processes().device
    precision = resolve_precision("auto", device)
    source = Synthetic(image_size=64, num_classes=NUM_CLASSES, num_train=options.batch_size * options.steps, num_val=10, num_test=10)
    ours, our_log = framework(source, options.batch_size, device, precision)
    theirs, their_log = hand_written(source, options.batch_size, device, precision)
    rounds = 8 if options.quick else 40
    contenders = {"framework": ours, "hand_written": theirs}
    ratios, seconds = interleave("hand_written", contenders, num_rounds=rounds, progress=lambda number: print(f"\rround {number}/{rounds}", end=""))
    our_losses, their_losses = ([event["loss"] for event in log if event["event"] == "train"] for log in (our_log, their_log))
    same = all(abs(a - b) <= 1e-3 * abs(b) for a, b in zip(our_losses[:2], their_losses[:2], strict=True))
    print(f"\nloss of the first blocks: framework {our_losses[:2]}, hand-written {their_losses[:2]}")
    if not same:
        raise SystemExit("the contenders do not compute the same loss: the times can't be compared")
    result = ratios["framework"]
    images = options.batch_size * options.steps
    print(f"framework / hand-written: {result.ratio:.4f} (95 % interval {result.low:.4f} to {result.high:.4f}, {result.num_pairs} pairs of blocks)")
    print(", ".join(f"{name} {images / value:.0f} images/s" for name, value in seconds.items()))
    if options.json:
        record = {"hand_written": asdict(result), "images_per_second": {name: images / value for name, value in seconds.items()}}
        options.json.write_text(json.dumps(record | {"environment": environment(device.type, precision, 1)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
