"""python -m benchmarks.losses [--losses kd,at,...] [--rounds 20] [--quick] [--json FILE] [--markdown FILE]

What each loss costs in a ResNet-50 -> ResNet-18 step at 64 px, batch 64: time and peak memory of teacher + student + ce + the loss, as a ratio to
teacher + student + ce alone. The two are timed in turn in one process. About 40 minutes for all losses on 2 CPU cores. --quick: kd, at and crd only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import torch

from benchmarks.interleave import interleave
from benchmarks.peak_memory import peak_bytes
from benchmarks.ready import make_pieces
from benchmarks.results import Conditions, Table, make_parser, parse, publish, write_json
from distill.data.sources.synthetic import Synthetic
from distill.engine.optim import make_optimizer
from distill.engine.runtime import prepare_process, processes, resolve_precision
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch

NUM_CLASSES = 100
Step = Callable[[], torch.Tensor]
QUICK = "kd,at,crd"  # a loss on logits, one on maps, one with a memory bank
CLOCK = "steps on one batch that is there already: teacher, student, losses, backward and optimizer; no loader. Memory: the tensors of such a step."


def make_step(losses: dict[str, dict], source: Synthetic, batch_size: int, device: torch.device, precision: str) -> Step:
    """A whole training step, without the loader."""
    overrides = ["losses=null", f"losses={json.dumps(losses)}", "teacher.weights=random", f"data.global_batch_size={batch_size}"]
    recipe = load_recipe("r50_to_r18", overrides)
    pieces = make_pieces(recipe, source, device, precision)
    optimizer = make_optimizer(pieces.distiller, name="sgd", lr=1e-3, weight_decay=5e-4)
    labels, sample_ids = (torch.from_numpy(values[:batch_size]).to(device) for values in (source.train.labels, source.train.sample_ids))
    batch = Batch(source.train.pixels[:batch_size].to(device), labels, sample_ids, torch.zeros_like(sample_ids))
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("losses", __doc__, quick="4 rounds, and kd, at and crd only")
    parser.add_argument("--losses", default="", help="names with commas between them; all if empty")
    parser.add_argument("--rounds", type=int, help="steps of each loss (default 20)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    options = parse(parser, arguments)
    names, rounds = chosen(options.losses or (QUICK if options.quick else "")), options.rounds or (4 if options.quick else 20)
    prepare_process()
    device = processes().device
    conditions = Conditions(device, resolve_precision("auto", device), CLOCK)
    make = partial(make_step, source=make_source(options), batch_size=options.batch_size, device=device, precision=conditions.precision)
    alone = make({"ce": {}})
    alone()  # the optimizer's state is there from the second step on
    memory_alone, rows = peak_bytes(alone, device), {}
    setting = {"image_size": options.image_size, "batch_size": options.batch_size, "num_classes": NUM_CLASSES, "ce_alone_peak_bytes": memory_alone}
    print(f"ce alone, the teacher running: peak {memory_alone / 1e6:.0f} MB")
    for name in names:
        rows[name] = row = compare(alone, make({"ce": {}, name: {}}), memory_alone, rounds, device)
        print(f"{name:>12}: time {row['time_ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}), memory {row['memory_ratio']:.3f}", flush=True)
        write_json(options, {"losses": rows, "setting": setting}, conditions)
    shown = [(name, f"{row['time_ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})", f"{row['memory_ratio']:.3f}") for name, row in rows.items()]
    table = Table("A step with ce and a loss, over one with ce alone", ("loss", "time (95 % interval)", "memory"), shown)
    publish(options, table, {"losses": rows, "setting": setting}, conditions)


def make_source(options: argparse.Namespace) -> Synthetic:
    num_train = 4 * max(NUM_CLASSES, options.batch_size)
    return Synthetic(image_size=options.image_size, num_classes=NUM_CLASSES, num_train=num_train, num_val=NUM_CLASSES, num_test=NUM_CLASSES)


def compare(alone: Step, step: Step, memory_alone: int, num_rounds: int, device: torch.device) -> dict[str, float]:
    """What docs/losses_page.py reads of a loss."""
    step()
    memory = peak_bytes(step, device) / memory_alone
    ratio = asdict(interleave("ce", {"ce": alone, "loss": step}, num_rounds=num_rounds)[0]["loss"])
    return {"time_ratio": ratio.pop("ratio"), **ratio, "memory_ratio": memory}


def chosen(words: str) -> list[str]:
    """The names in a list with commas; all where it is empty. Raises SystemExit for an unknown one."""
    known = [name for name in Catalogue().names("losses") if name != "ce"]
    names = words.split(",") if words else known
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"--losses: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return names


if __name__ == "__main__":
    main()
