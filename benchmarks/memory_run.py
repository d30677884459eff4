"""Started by benchmarks.memory, in a process of its own: trains one contender, and prints what memory it took as one line of JSON.

On Linux the peak is the kernel's own mark (VmHWM), set back just before training; getrusage's would begin at what the parent had before the fork.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import contenders
from benchmarks.peak_memory import peak_bytes
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import prepare_process, processes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("teacher")
    parser.add_argument("precision")
    for name in ("batch_size", "image_size", "steps", "blocks"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    prepare_process()
    device = processes().device
    num_train = options.batch_size * options.steps
    source = Synthetic(image_size=options.image_size, num_classes=10, num_train=num_train, num_val=10, num_test=10)
    setting = contenders.Setting(source, options.batch_size, device, options.precision, options.teacher)
    print(json.dumps(measure(*getattr(contenders, options.contender)(setting), options.blocks, device)))


def measure(run: Callable[[], None], losses: list[float], blocks: int, device: torch.device) -> dict:
    """Bytes: before the first step, at the worst moment, after each block of steps; and the tensors that a block makes, at their worst moment."""
    gc.collect()
    before = forget_peak(device)
    samples, alive = [], []
    for _ in range(blocks):
        run()
        samples.append(now(device))
        alive.append(tensor_bytes())
    whole = peak(device)
    return {"before": before, "peak": whole, "samples": samples, "alive": alive, "tensors_peak": peak_bytes(run, device), "loss": losses[0]}


def forget_peak(device: torch.device) -> int:
    """Bytes now; from here on `peak` counts, where the system can be asked to forget what was before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text(_RESET_PEAK)
    return now(device)


def now(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    if not STATUS.exists():  # no Linux: the process's highest is all that can be asked for
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    rows = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(rows[name].split()[0]) * 1024


def tensor_bytes() -> int:
    """Of all that Python's tensors hold, each storage once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


if __name__ == "__main__":
    main()
