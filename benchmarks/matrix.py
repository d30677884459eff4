"""python -m benchmarks.matrix [--pairs resnet50:resnet18,...] [--sizes 224,...] [--batches 256,...] [--json FILE] [--markdown FILE]

One table over pairs of networks, picture sizes, batch sizes, precisions, eager or compiled, a live teacher or its kept answers: images/s of the
framework's step, the memory that it takes beyond what was there before, the FLOP/s reached and their share of the fastest matrix product's, and the
memory traffic of an eager step as a share of what a copy reaches. Without options the whole table on a GPU (hours: select), and a small one on a CPU.
A cell that runs out of memory says so, and the others go on. With --json each cell is written as it is measured, and cells that are there already are
passed over. On a CPU about 10 minutes, 2 with --quick.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.cells import Cell, allow_tf32, measure
from benchmarks.results import Conditions, Table, make_parser, parse, publish, write_json
from distill.doctor.ceilings import Ceilings, measure_ceilings
from distill.engine.runtime import prepare_process, processes, resolve_precision
from distill.record import environment

CLOCK = "whole steps of an epoch: views made from pictures on the device, teacher or known answers, student, kd + ce, backward, optimizer."
PAIRS = ("resnet50:resnet18", "resnet101:resnet18", "resnet50:resnet34", "resnet34:resnet18")
COLUMNS = ("pair", "pixels", "batch", "precision", "step", "teacher", "images/s", "MB in a step", "TFLOP/s", "of the most", "traffic, of a copy's")
CHOICES = {"precisions": ("fp32", "tf32", "bf16"), "steps": ("eager", "compiled"), "teachers": ("online", "cached")}


class Axes(NamedTuple):
    pairs: Sequence[str]
    sizes: Sequence[int]
    batches: Sequence[int]
    precisions: Sequence[str]
    steps: Sequence[str]
    teachers: Sequence[str]


def default_axes(device: torch.device, *, is_quick: bool) -> Axes:
    if device.type == "cuda":
        whole = Axes(PAIRS, (224, 160, 64), (64, 128, 256, 512), CHOICES["precisions"], CHOICES["steps"], CHOICES["teachers"])
        return whole._replace(pairs=PAIRS[:1], sizes=(224,), batches=(256,), precisions=("bf16",)) if is_quick else whole
    precisions = ("fp32", "bf16") if resolve_precision("auto", device) == "bf16" else ("fp32",)
    return Axes(PAIRS[:1] if is_quick else PAIRS, (64,), (64,), precisions, ("eager",), CHOICES["teachers"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("matrix", __doc__, quick="one pair, and less time for each cell")
    for name in Axes._fields:
        allowed = f"of {', '.join(CHOICES[name])}" if name in CHOICES else "TEACHER:STUDENT" if name == "pairs" else "numbers"
        parser.add_argument(f"--{name}", help=f"{allowed}, with commas between them")
    parser.add_argument("--block", type=int, default=10, help="steps that are timed together")
    parser.add_argument("--seconds", type=float, help="that a cell is timed for, at least (default 5)")
    options = parse(parser, arguments)
    options.seconds = (2.0 if options.quick else 5.0) if options.seconds is None else options.seconds
    prepare_process()
    device = processes().device
    axes = chosen_axes(options, default_axes(device, is_quick=options.quick), parser)
    conditions = Conditions(device, ", ".join(axes.precisions), CLOCK)
    values = earlier(options, device, parser)
    cells = [Cell(*pair.split(":"), *rest) for pair, *rest in itertools.product(*axes)]
    for number, cell in enumerate(cells, start=1):
        if cell.name not in values["cells"]:
            values["ceilings"].setdefault(cell.precision, ceilings(cell, device)._asdict())
            values["cells"][cell.name] = measure(cell, options.block, options.seconds, device)
            gc.collect()
            write_json(options, values, conditions)
        print(f"{number}/{len(cells)} {cell.name}: {said(values['cells'][cell.name])}", flush=True)
    rows = [row_of(cell, values["cells"][cell.name], values["ceilings"].get(cell.precision)) for cell in cells]
    publish(options, Table("Training step of the framework", COLUMNS, rows), values, conditions)


def chosen_axes(options: argparse.Namespace, default: Axes, parser: argparse.ArgumentParser) -> Axes:
    """What the options say, and the defaults where they say nothing; ends the program where they can't be meant."""
    axes = {}
    for name, values in default._asdict().items():
        words = getattr(options, name)
        found = values if words is None else words.split(",")
        if name in CHOICES and (unknown := sorted(set(found) - set(CHOICES[name]))):
            parser.error(f"--{name}: {', '.join(unknown)} is none of {', '.join(CHOICES[name])}")
        if name in ("sizes", "batches") and not all(str(one).isdecimal() and int(one) for one in found):
            parser.error(f"--{name} {words}: numbers from 1 up, with commas between them")
        if name == "pairs" and not all(one.count(":") == 1 for one in found):
            parser.error(f"--pairs {words}: as in {PAIRS[0]}, with commas between them")
        axes[name] = tuple(int(one) for one in found) if name in ("sizes", "batches") else tuple(found)
    if "tf32" in axes["precisions"] and processes().device.type != "cuda":
        parser.error("--precisions tf32: only NVIDIA's GPUs have it")
    return Axes(**axes)


def earlier(options: argparse.Namespace, device: torch.device, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What stands in --json already; ends the program if that is something else, or of another machine."""
    if options.json is None or not options.json.exists():
        return {"cells": {}, "ceilings": {}}
    try:
        found = json.loads(options.json.read_text(encoding="utf-8"))
        kept = {name: dict(found[name]) for name in ("cells", "ceilings")}
        there = found["environment"]
    except (ValueError, KeyError, TypeError):
        parser.error(f"--json {options.json}: is there, and was not written by this benchmark; name another file, or remove it")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    here = environment(name, "", 1)
    differing = [key for key in ("processor", "num_cores", "device", "versions") if there.get(key) != here[key]]
    if differing:
        parser.error(f"--json {options.json}: its cells are of another {', '.join(differing)}; name another file, or remove it")
    return kept


def ceilings(cell: Cell, device: torch.device) -> Ceilings:
    with allow_tf32(cell.precision == "tf32"):
        return measure_ceilings(device, torch.bfloat16 if cell.precision == "bf16" else torch.float32)


def said(measured: Mapping[str, Any]) -> str:
    return measured.get("failed") or f"{measured['images_per_second']:,.0f} images/s"


def row_of(cell: Cell, measured: Mapping[str, Any], most: Mapping[str, float] | None) -> tuple[str, ...]:
    """As COLUMNS has it."""
    first = (f"{cell.teacher} -> {cell.student}", str(cell.size), str(cell.batch), cell.precision, cell.step, cell.answers)
    if "failed" in measured or most is None:
        return *first, measured.get("failed", ""), "", "", "", ""
    flop, moved = measured["flop_per_second"], measured["moved_bytes_per_second"]
    traffic = f"{moved / most['bytes_per_second']:.0%}" if cell.step == "eager" else ""  # a compiled step moves less than what is counted
    peak = "" if measured["peak_bytes"] is None else f"{measured['peak_bytes'] / 1e6:,.0f}"
    shown = (f"{measured['images_per_second']:,.0f}", peak, f"{flop / 1e12:.3g}")
    return *first, *shown, f"{flop / most['flops_per_second']:.0%}", traffic


if __name__ == "__main__":
    main()
