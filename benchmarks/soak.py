"""python -m benchmarks.soak [--steps 2000] [--json FILE]

Trains for many steps with everything on, and watches what must not grow: memory, file handles, threads, hooks, and what torch's tensors hold.
Everything: projectors, a memory bank, a learned temperature, found weights, schedules, dropout, an average, clipping, accumulation, measured
gradients, pictures decoded by worker processes, a checkpoint every 50 steps, an evaluation every 40. Linux.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distill import cli, record
from distill.engine.trainer import Trainer

OPTIONS = [
    "--recipe",
    "smoke",
    "student.model=timm/test_resnet",
    "teacher.model=timm/test_resnet",
    "control=false",
    "teacher.check=false",
]
OPTIONS += ["data.source=imagefolder", "data.root=pictures", "data.image_size=32", "data.workers=2", "data.augment.flip=0.5", "train.max_steps=null"]
OPTIONS += ["losses.kd=null", "losses.ctkd={weight: 0.5}", "losses.fitnet={weight: auto(0.5), layers: [layer2, layer4]}", "train.accumulation=2"]
OPTIONS += ["losses.crd={weight: {schedule: warmup, end: 0.5, epochs: 2}, num_negatives: 64, dim: 32}", "train.ema_decay=0.99", "train.clip_norm=5"]
OPTIONS += ["train.log_gradients_every=25", "train.optimizer=adamw", "train.lr=0.001", "student.arguments={drop_rate: 0.1, drop_path_rate: 0.1}"]
OPTIONS += ["train.checkpoint_every_steps=50", "train.precision=fp32", "train.log_every=10"]
STEPS_PER_EPOCH, BATCH = 40, 8


def make_pictures() -> None:
    for part, count in (("train", STEPS_PER_EPOCH * BATCH // 2), ("val", 20), ("test", 20)):
        for name in ("cat", "dog"):
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = hash((part, name, number)) % 2**32
                Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def measure(trainer: Trainer) -> dict[str, int]:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    modules = [module for network in (trainer.distiller, trainer.teacher.network) for module in network.modules()]
    tensors = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in gc.get_objects() if isinstance(value, torch.Tensor)}
    return {
        "step": trainer.step,
        "memory_bytes": int(status["VmRSS"].split()[0]) * 1024,
        "threads": int(status["Threads"]),
        "file_handles": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 (iterdir would hold one itself)
        "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) for module in modules),
        "tensor_bytes": sum(tensors.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write what was measured there too")
    options = parser.parse_args()
    json_file = options.json.resolve() if options.json else None
    rows: list[dict[str, int]] = []
    original = Trainer._end_epoch

    def end_epoch(self: Trainer) -> None:
        original(self)
        rows.append(measure(self))
        if self.step % 200 == 0:
            print(rows[-1], flush=True)

    Trainer._end_epoch = end_epoch
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["DISTILL_CACHE"] = folder
        make_pictures()
        code = cli.main(["train", *OPTIONS, f"train.epochs={options.steps // STEPS_PER_EPOCH}", f"data.global_batch_size={BATCH}"])
        os.chdir("/")
    if code:
        raise SystemExit(code)
    settled = [row for row in rows if row["step"] >= 200]
    steps, memory = (np.array([row[key] for row in settled], dtype=float) for key in ("step", "memory_bytes"))
    slope = np.polyfit(steps, memory, 1)[0] * 1000
    grown = memory[-1] - memory[0]
    change = f"{grown / 1e6:+.1f} MB, {grown / memory[0]:+.2%}"
    print(f"memory at step {steps[0]:.0f}: {memory[0] / 1e6:.1f} MB, at the end: {memory[-1] / 1e6:.1f} MB ({change})")
    print(f"slope of a straight line through {len(settled)} points: {slope / 1e6:+.2f} MB per 1,000 steps")
    lowest = ", ".join(f"{part.min() / 1e6:.1f}" for part in np.array_split(memory, 4))  # the allocator gives back large buffers some time later
    print(f"lowest in each quarter: {lowest} MB")
    for key in ("threads", "file_handles", "hooks", "tensor_bytes"):
        values = sorted({row[key] for row in settled})
        print(f"{key}: {values[0]:,}" + (f" to {values[-1]:,}" if len(values) > 1 else ", constant"))
    if json_file:
        json_file.write_text(json.dumps({"rows": rows, "environment": record.environment("cpu", "fp32", 1)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
