"""The machine: how many threads, which precision, and Accelerate set up for one run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from distill.errors import RecipeError
from distill.record import available_cores

_BITS = (1 << 64) - 1
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_KEPT, _MOST_KEPT = 256 << 20, (2 << 30) - 1  # bytes; a layer of 64 pictures of 224 px takes 196 MB

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def cores_per_process() -> int:
    """This process's share of the machine's cores."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def prepare_process() -> None:
    """Threads, denormals and memory as training on a CPU wants them; this machine's cores are shared among its processes."""
    # `accelerate launch` and torchrun set one thread for each process, which is right for GPUs only
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(cores_per_process())
    torch.set_flush_denormal(True)  # a confident teacher's probabilities underflow, and denormals are many times slower
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next step. It would often give it back to the system, which then hands it out again page by page, each
    with an interrupt: with 64 pictures of 64 px up to 30,000 of them a step, 4 % of its time on two cores. Whoever has set glibc's own variables is
    not overruled."""
    names = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_"}
    if platform.libc_ver()[0] != "glibc" or names & os.environ.keys() or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = ctypes.CDLL(None).mallopt
    if mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT):  # refused by a glibc that allows 32 MB at most; it is then left as it is
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" becomes bf16 where the hardware computes it fast, else fp32. Raises RecipeError for what the device can't do."""
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "fp64" and device.type == "mps":
        raise RecipeError("train.precision=fp64: Apple's GPUs have no 64-bit floats; set train.precision=fp32 or run with ACCELERATE_USE_CPU=true")
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("train.precision=fp16 is for GPUs; on a CPU set train.precision=auto")
    return precision


def precision_in_words(asked: str, device: torch.device) -> str:
    """What resolve_precision gives, and why, or what is bad about it, where the device has no fast bf16."""
    precision = resolve_precision(asked, device)
    if _has_fast_bf16(device):
        return precision
    return {"auto": f"{precision} (no fast bf16 here)", "bf16": "bf16 (emulated here, and slower than fp32)"}.get(asked, precision)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # newer than torch 2.10
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


@contextlib.contextmanager
def only_deterministic(is_asked: bool) -> Iterator[None]:
    """Inside, torch refuses operations that may give other bits the next time, and names them. Raises RecipeError if one is used."""
    if not is_asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it; read when the first product is computed
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise RecipeError(f"deterministic: true can't be kept: {reason}; remove what uses it, or set deterministic=false") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def seed_step(device: torch.device, *key: int) -> None:
    """Seeds what draws from torch's global generators, such as dropout, by seed, step, part and process: then a resumed run draws the same."""
    number = _mixed(key)
    torch.default_generator.manual_seed(number)  # by itself 1 us; torch.manual_seed looks for every kind of device, and takes 90
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def _mixed(key: tuple[int, ...]) -> int:
    """63 bits that look random, by the steps of SplitMix64 (Steele, Lea, Flood, 2014): a hash of hashlib takes ten times longer."""
    number = 0
    for part in key:
        number = (number + part + 0x9E3779B97F4A7C15) & _BITS
        number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _BITS
        number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _BITS
        number ^= number >> 31
    return number >> 1


def processes() -> PartialState:
    """The processes of this job. Raises RecipeError if a launcher has started several and Accelerate does not see them."""
    make_accelerator()  # it, and not PartialState, reads ACCELERATE_USE_CPU
    state, started = PartialState(), int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise RecipeError(
            f"{started} processes were started, but each would work alone; on CPUs set ACCELERATE_USE_CPU=true in the environment of the launcher"
        )
    return state


def make_accelerator() -> Accelerator:
    """Accelerate for one run. Mixed precision is left to Network: Accelerate would copy every returned tensor to float32.

    Buffers are not sent from the first process to the others in each step: batch statistics are gathered by each from its own pictures and averaged
    before they are used, and everything else in a buffer is computed alike by all.
    """
    return Accelerator(
        mixed_precision="no",
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)],
    )
