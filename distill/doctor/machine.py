"""What this machine has: versions, devices, free memory, and which features of a recipe it lacks something for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from distill import record
from distill.engine.runtime import resolve_precision


def machine(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Versions, devices, and "features": rows of [what, whether it is there, what it means]."""
    precision = resolve_precision("auto", device)
    facts = record.environment(device.type, precision, num_processes)
    facts.pop("command")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        **facts,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "free_memory_bytes": free_memory(device),
        "features": _features(device, precision, num_processes),
    }


def free_memory(device: torch.device) -> int | None:
    """Bytes free where networks are to live: on the GPU, or what the kernel says it could give; None where nothing says so."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def _features(device: torch.device, precision: str, num_processes: int) -> list[tuple[str, bool, str]]:
    is_cuda, started = device.type == "cuda", int(os.environ.get("WORLD_SIZE", "1"))
    fast = precision == "bf16"
    processes = f"{num_processes} at work here" if num_processes == started else f"{started} were started, but each would work alone"
    return [
        (
            "a GPU",
            device.type != "cpu",
            f"training runs on {device.type}" + ("" if device.type != "cpu" else ": with large pictures this takes long"),
        ),
        ("fast bf16", fast, f"train.precision=auto means {precision}" + ("" if fast else ", which takes longer")),
        ("train.precision=fp16", device.type != "cpu", "" if device.type != "cpu" else "needs a GPU"),
        ("train.precision=fp64", device.type != "mps", "Apple's GPUs have no 64-bit floats" if device.type == "mps" else ""),
        ("norm: sync", is_cuda, "" if is_cuda else "needs CUDA"),
        ("several processes", num_processes == started, processes + ("" if num_processes == started else "; on CPUs set ACCELERATE_USE_CPU=true")),
    ]
