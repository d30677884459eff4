"""python -m benchmarks.losses [--losses kd,at,...] [--rounds 20] [--quick] [--json FILE]

What each loss costs in a ResNet-50 -> ResNet-18 step at 64 px, batch 64: time and peak memory of teacher + student + ce + the loss, as a ratio to
teacher + student + ce alone. The two are timed in turn in one process. About 40 minutes for all losses on 2 CPU cores, 8 with --quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.interleave import interleave
from benchmarks.peak_memory import peak_bytes
from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.engine.optim import make_optimizer
from distill.engine.runtime import processes, resolve_precision, use_all_cores
from distill.recipe_files import load_recipe
from distill.record import environment
from distill.resolve import Catalogue
from distill.structures import Batch

BATCH_SIZE, IMAGE_SIZE, NUM_CLASSES = 64, 64, 100


def make_step(losses: dict[str, dict], source: Synthetic, device: torch.device, precision: str) -> Callable[[], torch.Tensor]:
    """A whole training step, without the loader."""
    overrides = ["losses=null", f"losses={json.dumps(losses)}", "teacher.weights=random", f"data.global_batch_size={BATCH_SIZE}"]
    recipe = load_recipe("r50_to_r18", overrides)
    pieces = build_pieces(recipe, Catalogue(), source, device=device, precision=precision, weights={})
    optimizer = make_optimizer(pieces.distiller, name="sgd", lr=1e-3, weight_decay=5e-4)
    labels, sample_ids = (torch.from_numpy(values[:BATCH_SIZE]).to(device) for values in (source.train.labels, source.train.sample_ids))
    batch = Batch(source.train.pixels[:BATCH_SIZE].to(device), labels, sample_ids, torch.zeros_like(sample_ids))
    pieces.distiller.train()

    def step() -> torch.Tensor:
        output = pieces.distiller(batch, pieces.teacher(batch))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return output.loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", default="", help="names with commas between them; all if empty")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="4 rounds")
    parser.add_argument("--json", type=Path, help="write the result there too, after each loss")
    options = parser.parse_args()
    use_all_cores()
    device = processes().device
    precision = resolve_precision("auto", device)
    source = Synthetic(image_size=IMAGE_SIZE, num_classes=NUM_CLASSES, num_train=4 * NUM_CLASSES, num_val=NUM_CLASSES, num_test=NUM_CLASSES)
    names = options.losses.split(",") if options.losses else [name for name in Catalogue().names("losses") if name != "ce"]
    alone = make_step({"ce": {}}, source, device, precision)
    alone()  # the optimizer's state is there from the second step on
    memory_alone, rows = peak_bytes(alone, device), {}
    print(f"ce alone, the teacher running: peak {memory_alone / 1e6:.0f} MB")
    for name in names:
        step = make_step({"ce": {}, name: {}}, source, device, precision)
        step()
        memory = peak_bytes(step, device) / memory_alone
        ratios, _ = interleave("ce", {"ce": alone, name: step}, num_rounds=4 if options.quick else options.rounds)
        result = ratios[name]
        rows[name] = {"time_ratio": result.ratio, **{key: value for key, value in asdict(result).items() if key != "ratio"}, "memory_ratio": memory}
        print(f"{name:>12}: time {result.ratio:.3f} (95 % interval {result.low:.3f} to {result.high:.3f}), memory {memory:.3f}", flush=True)
        if options.json:
            setting = {"image_size": IMAGE_SIZE, "batch_size": BATCH_SIZE, "num_classes": NUM_CLASSES, "ce_alone_peak_bytes": memory_alone}
            record = {"losses": rows, "setting": setting, "environment": environment(device.type, precision, 1)}
            options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
