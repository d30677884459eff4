"""The machine: how many threads, which precision, and Accelerate set up for one run."""

from __future__ import annotations

import os
import platform

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from distill.errors import RecipeError
from distill.record import available_cores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def cores_per_process() -> int:
    """This process's share of the machine's cores."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def use_all_cores() -> None:
    """Shares this machine's cores among its processes. `accelerate launch` and torchrun set one thread each, which is right for GPUs only."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(cores_per_process())
    torch.set_flush_denormal(True)  # a confident teacher's probabilities underflow, and denormals are many times slower


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" becomes bf16 where the hardware computes it fast, else fp32. Raises RecipeError for what the device can't do."""
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "fp64" and device.type == "mps":
        raise RecipeError("train.precision=fp64: Apple's GPUs have no 64-bit floats; set train.precision=fp32 or run with ACCELERATE_USE_CPU=true")
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("train.precision=fp16 is for GPUs; on a CPU set train.precision=auto")
    return precision


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # newer than torch 2.10
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def processes() -> PartialState:
    """The processes of this job. Raises RecipeError if a launcher has started several and Accelerate does not see them."""
    make_accelerator()  # it, and not PartialState, reads ACCELERATE_USE_CPU
    state, started = PartialState(), int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise RecipeError(
            f"{started} processes were started, but each would work alone; on CPUs set ACCELERATE_USE_CPU=true in the environment of the launcher"
        )
    return state


def make_accelerator(accumulation: int = 1) -> Accelerator:
    """Accelerate for one run. Mixed precision is left to Network: Accelerate would copy every returned tensor to float32.

    Buffers are not sent from the first process to the others in each step: batch statistics are gathered by each from its own pictures and averaged
    before they are used, and everything else in a buffer is computed alike by all.
    """
    return Accelerator(
        mixed_precision="no",
        gradient_accumulation_steps=accumulation,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)],
    )
