"""python -m benchmarks.step [--quick] [--json FILE] [--markdown FILE]

How long a training step takes in the framework, against loops written by hand and other packages that do the same arithmetic, all in one process and
in turn (benchmarks/contenders.py). A contender whose loss differs is not timed. About 10 minutes on 2 CPU cores, 3 with --quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from benchmarks import contenders
from benchmarks.interleave import ratio_of, show_round, time_in_turn
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import prepare_process, processes, resolve_precision

CONTENDERS = ("hand_written", "framework_cached", "naive", "timm_default", "timm_best", "torchdistill_shipped")
WITH_EVERYTHING = ("hand_written", "framework_cached")  # those that can also average and clip
CLOCK = "whole steps of an epoch: views made from pictures in memory, teacher, student, loss, backward and optimizer; no files, no evaluation."
TOLERANCE = {"fp32": 5e-3, "bf16": 2e-2}  # of the first epoch's loss: rounding grows from step to step, and float32 stands beside bf16


def require_same_losses(losses: dict[str, list[float]], precision: str) -> None:
    """Raises SystemExit where a contender does not compute what the framework computes."""
    ours = losses["framework"][0]
    for name, (theirs, *_) in losses.items():
        if not abs(ours - theirs) <= TOLERANCE[precision] * abs(ours):
            raise SystemExit(f"{name} does not compute the framework's loss: {theirs:.6g} and not {ours:.6g}; their times can't be compared")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("step", __doc__, quick="6 rounds in place of 40")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="steps in a block")
    parser.add_argument("--rounds", type=int, help="blocks of each contender")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these beside the framework; default all that can be")
    parser.add_argument("--everything", action="store_true", help="with a moving average of the weights and the gradient clipped too")
    options = parse(parser, arguments)
    options.only = options.only or (WITH_EVERYTHING if options.everything else CONTENDERS)
    if options.everything and (lacking := set(options.only) - set(WITH_EVERYTHING)):
        parser.error(f"--everything: {', '.join(sorted(lacking))} has no moving average and does not clip; leave it out")
    prepare_process()
    device = processes().device
    precision = resolve_precision(options.precision, device)
    num_train = options.batch_size * options.steps
    source = Synthetic(image_size=options.image_size, num_classes=10, num_train=num_train, num_val=10, num_test=10)
    setting = contenders.Setting(source, options.batch_size, device, precision, options.teacher, options.everything)
    made = {name: getattr(contenders, name)(setting) for name in ("framework", *options.only)}
    for run, _ in made.values():
        run()
    require_same_losses({name: losses for name, (_, losses) in made.items()}, precision)
    rounds = options.rounds or (6 if options.quick else 40)
    runs = {name: run for name, (run, _) in made.items()}
    seconds = time_in_turn(runs, num_rounds=rounds, progress=show_round(rounds))
    ratios = {name: ratio_of(np.log(seconds["framework"] / seconds[name])) for name in options.only}  # how much of its time the framework takes
    if {"framework_cached", "timm_best"} <= set(options.only):  # what a second run gains over the best that timm does in every run
        ratios["timm_best_cached"] = ratio_of(np.log(seconds["framework_cached"] / seconds["timm_best"]))
    speeds = {name: num_train / float(np.median(values)) for name, values in seconds.items()}
    rows = [(name, f"{speed:,.0f}", str(ratios.get(name, 1))) for name, speed in speeds.items()]
    if "timm_best_cached" in ratios:
        rows.append(("timm_best, framework_cached / it", "", str(ratios["timm_best_cached"])))
    table = Table(f"Training step, {options.teacher} -> resnet18", ("contender", "images/s", "time, framework / contender (95 % interval)"), rows)
    values = {name: asdict(ratio) for name, ratio in ratios.items()} | {"images_per_second": speeds}
    publish(options, table, values, Conditions(device, precision, CLOCK))


if __name__ == "__main__":
    main()
