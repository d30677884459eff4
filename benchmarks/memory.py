"""python -m benchmarks.memory [--quick] [--steps 50] [--json FILE] [--markdown FILE]

How much memory training takes in the framework, against the loop written by hand: the highest of the whole process, its rise over what was there just
before the first step, and the tensors of a step, counted. And whether it grows: memory after every block of steps, the slope of a line through it,
and the bytes that tensors hold. Each contender is started afresh in a process of its own, in turn. On a CPU the C library keeps what is freed for
later, as it happens; --allocator returning has it give large blocks back at once, so that a process holds what it uses. Wanted: ratios of 1.01 at
most, and no growth, which takes many steps to see, of any size: --steps 500 --batch-size 8 --image-size 32 does it in half an hour on 2 CPU cores.
About 20 minutes there, 3 with --quick.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from benchmarks.children import environment_of_child
from benchmarks.interleave import Difference, Ratio, difference_of, ratio_of, show_round
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from benchmarks.step import require_same_losses
from distill.engine.runtime import prepare_process, processes, resolve_precision

CLOCK = "no clock. Counted are a process's resident memory (on CUDA: what torch has allocated) and, without it, the tensors of a step."
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # glibc then maps each large block and unmaps it when freed
SETTLED = 0.2  # of the samples, which come before an allocator has found its level, are left out of the slope


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("memory", __doc__, quick="batches of 16, 30 steps, 2 processes of each contender")
    parser.add_argument("--steps", type=int, help="in each process (default 50)")
    parser.add_argument("--repeats", type=int, help="processes of each contender (default 3)")
    parser.add_argument("--block", type=int, default=5, help="steps between two looks at the memory")
    parser.add_argument("--against", default="hand_written", help="a contender of benchmarks/contenders.py")
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--batch-size", type=int, help="default 64")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--allocator", default="returning", choices=["returning", "default"], help="of a process on a CPU")
    options = parse(parser, arguments)
    options.steps = options.steps or (30 if options.quick else 50)
    options.repeats = options.repeats or (2 if options.quick else 3)
    options.batch_size = options.batch_size or (16 if options.quick else 64)
    if options.steps // options.block < 5:
        parser.error(f"--steps {options.steps} are fewer than 5 blocks of {options.block}: a slope needs more")
    prepare_process()
    device = processes().device
    precision = resolve_precision(options.precision, device)
    found = run_in_turn(options, precision)
    require_same_losses({name: [rows[0]["loss"]] for name, rows in found.items()}, precision)
    ratios, slopes = compare(found, options.against), {name: slope_of(rows, options.block) for name, rows in found.items()}
    alive = {name: sorted({value for row in rows for value in row["alive"][1:]}) for name, rows in found.items()}
    table = Table(f"Memory of training, {options.teacher} -> resnet18", ("what", "value (95 % interval)"), rows_of(ratios, slopes, alive, found))
    values = {name: asdict(ratio) for name, ratio in ratios.items()}
    values |= {"bytes_per_step": {name: asdict(slope) for name, slope in slopes.items()}, "tensor_bytes": alive, "processes": found}
    publish(options, table, values, Conditions(device, precision, CLOCK))


def run_in_turn(options: argparse.Namespace, precision: str) -> dict[str, list[dict]]:
    """contender -> what benchmarks.memory_run measured in each of its processes."""
    found, progress = {"framework": [], options.against: []}, show_round(options.repeats)
    for number in range(options.repeats):
        for name in found if number % 2 == 0 else reversed(list(found)):
            found[name].append(run(name, options, precision))
        progress(number + 1)
    return found


def run(name: str, options: argparse.Namespace, precision: str) -> dict:
    sizes = (options.batch_size, options.image_size, options.block, options.steps // options.block)
    command = [sys.executable, "-m", "benchmarks.memory_run", name, options.teacher, precision, *map(str, sizes)]
    environment = environment_of_child(**(RETURNING if options.allocator == "returning" else {}))
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"the process that trains {name} ended with code {result.returncode}; what it said is above")
    return json.loads(result.stdout.splitlines()[-1])


def compare(found: dict[str, list[dict]], against: str) -> dict[str, Ratio]:
    """The framework's over the other's, a pair a round."""
    pairs = list(zip(found["framework"], found[against], strict=True))

    def over(value) -> Ratio:
        return ratio_of(np.log([value(ours) / value(theirs) for ours, theirs in pairs]))

    return {
        "peak": over(lambda row: row["peak"]),
        "rise": over(lambda row: max(row["peak"] - row["before"], 1)),
        "tensors": over(lambda row: row["tensors_peak"]),
    }


def slope_of(rows: list[dict], block: int) -> Difference:
    """Bytes that are more after each step: of each process the slope of a straight line, together the median with its interval."""
    slopes = []
    for row in rows:
        samples = np.array(row["samples"][int(SETTLED * len(row["samples"])) :], dtype=float)
        slopes.append(np.polyfit(block * np.arange(len(samples)), samples, 1)[0])
    return difference_of(np.array(slopes))


def rows_of(ratios: dict[str, Ratio], slopes: dict[str, Difference], alive: dict[str, list[int]], found: dict[str, list[dict]]) -> list[tuple]:
    words = {"peak": "highest memory of the process", "rise": "its rise over before the first step", "tensors": "tensors of a step, counted"}
    rows = [(f"{name}: {words['peak']}", f"{np.median([row['peak'] for row in there]) / 1e6:,.1f} MB") for name, there in found.items()]
    rows += [(f"{words[key]}, framework / {list(found)[1]}", str(ratio)) for key, ratio in ratios.items()]
    rows += [(f"{name}: growth, bytes a step", str(slope)) for name, slope in slopes.items()]
    for name, values in alive.items():
        shown = f"{values[0]:,}, constant" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
        rows.append((f"{name}: bytes that tensors hold after a block", shown))
    return rows


if __name__ == "__main__":
    main()
