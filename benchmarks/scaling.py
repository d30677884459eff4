"""python -m benchmarks.scaling [--processes 2] [--quick] [--json FILE] [--markdown FILE]

Throughput of training on several processes against one: on a CPU, N processes of one thread (or so many that the cores are used) against one process
with as many threads as they have together; on GPUs, N of them against one. The global batch is the same, and before anything is timed both must have
trained on the same views of the same pictures in the same steps. Both groups are started once; then they train blocks in turn, and the one that is
not asked waits without using a core. Wanted on a CPU: 0.95 at least. About 5 minutes on 2 CPU cores, 2 with --quick.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import chain

import numpy as np
import torch

from benchmarks.children import Group
from benchmarks.interleave import ratio_of, show_round
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from distill.engine.runtime import resolve_precision
from distill.record import available_cores

CLOCK = "whole steps of an epoch in the slowest process: views, teacher, student, loss, backward, exchange of gradients, optimizer; no evaluation."
# of the first block's mean loss: each process takes batch statistics from its own pictures, which with few of them tells in the loss; a loss or a
# gradient that is summed where it should be averaged does so far more. That the pictures are the same is asked to the bit.
TOLERANCE = 0.2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("scaling", __doc__, quick="8 rounds in place of 40")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="steps in a block")
    parser.add_argument("--rounds", type=int, help="blocks of each group")
    parser.add_argument("--patience", type=float, default=300, help="seconds that a block may take before its processes are given up")
    options = parse(parser, arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require_possible(options, device, parser.error)
    precision, rounds = resolve_precision(options.precision, device), options.rounds or (8 if options.quick else 40)
    with contextlib.ExitStack() as stack:
        groups = {str(number): stack.enter_context(start(options, precision, device, number)) for number in (1, options.processes)}
        first = {name: group.answers() for name, group in groups.items()}
        require_same_work(first)
        seconds = time_in_turn(groups, rounds)
    ratio = ratio_of(np.log(seconds["1"] / seconds[str(options.processes)]))
    speeds = {name: options.batch_size * options.steps / float(np.median(values)) for name, values in seconds.items()}
    shown = [(name, str(threads_of(int(name), options.processes, device)), f"{speed:,.0f}") for name, speed in speeds.items()]
    rows = [(*row, str(ratio) if row[0] != "1" else "1") for row in shown]
    losses = {name: answers[0]["loss"] for name, answers in first.items()}
    values = {"throughput": asdict(ratio), "images_per_second": speeds, "losses": losses}
    table = Table(f"Several processes, {options.teacher} -> resnet18", ("processes", "threads of each", "images/s", "throughput over one"), rows)
    conditions = Conditions(device, precision, CLOCK, options.processes, threads_of(options.processes, options.processes, device))
    publish(options, table, values, conditions)


def require_possible(options: argparse.Namespace, device: torch.device, refuse: Callable[[str], None]) -> None:
    """Calls `refuse` with a sentence where these processes can't be started or compared."""
    available = torch.cuda.device_count() if device.type == "cuda" else available_cores()
    if options.processes < 2:
        refuse(f"--processes {options.processes}: one process is what they are compared with; 2 at least")
    if options.processes > available:
        refuse(f"--processes {options.processes}: there are {available} {'GPU(s)' if device.type == 'cuda' else 'core(s)'}")
    if options.batch_size % options.processes:
        refuse(f"--batch-size {options.batch_size} can't be divided among {options.processes} processes")


def threads_of(number: int, most: int, device: torch.device) -> int:
    """Threads of each process of a group of so many: on a CPU both groups have as many together."""
    each = max(1, available_cores() // most)
    return each if device.type == "cuda" else each * most // number


def start(options: argparse.Namespace, precision: str, device: torch.device, number: int) -> Group:
    """A group of so many processes, which find each other as those of any launcher do."""
    threads = threads_of(number, options.processes, device)
    common = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    common |= {"OMP_NUM_THREADS": str(threads)} | ({"ACCELERATE_USE_CPU": "true"} if device.type == "cpu" else {})
    environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    words = [options.teacher, precision, *map(str, (options.batch_size, options.image_size, options.steps, threads))]
    return Group(f"the group of {number}", "benchmarks.scaling_run", words, environments, patience=options.patience)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def require_same_work(first: dict[str, list[dict]]) -> None:
    """Raises SystemExit unless the groups saw the same views of the same pictures, step by step, and nearly the same loss."""
    seen = {name: [sorted(chain(*parts)) for parts in zip(*(one["pictures"] for one in answers), strict=True)] for name, answers in first.items()}
    (one, ours), (several, theirs) = seen.items()
    if ours != theirs:
        step = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        raise SystemExit(f"{several} processes did not see the pictures that {one} saw, first in step {step}; their times can't be compared")
    for name, answers in first.items():
        if any(answer["num_processes"] != len(answers) for answer in answers):
            raise SystemExit(f"{name} processes were started, and each has worked alone")
    losses = [answers[0]["loss"] for answers in first.values()]
    if not abs(losses[0] - losses[1]) <= TOLERANCE * abs(losses[0]):
        raise SystemExit(f"the losses of the first block are {losses[0]:.6g} and {losses[1]:.6g}; their times can't be compared")


def time_in_turn(groups: dict[str, Group], num_rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each group's slowest process in each round."""
    seconds, progress = {name: [] for name in groups}, show_round(num_rounds)
    for number in range(num_rounds):
        for name in groups if number % 2 == 0 else reversed(list(groups)):
            seconds[name].append(max(answer["seconds"] for answer in groups[name].ask("block")))
        progress(number + 1)
    return {name: np.array(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
