"""Too little memory: said with the numbers of the step and with the keys that lower them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import SMALL

from distill.engine import runtime
from distill.engine.trainer import Trainer

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:131] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000 bytes."
CUDA_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


@pytest.mark.parametrize("error", [RuntimeError(CPU_WORDS), torch.OutOfMemoryError(CUDA_WORDS), MemoryError()], ids=["cpu", "cuda", "host"])
def test_too_little_memory_is_explained(distill, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(Trainer, "_backward", fail)
    code, _, err = distill("train", *SMALL, "train.accumulation=2")
    words = " ".join(err.split())
    assert code == 1
    assert "error: out of memory on cpu" in words
    assert "a process holds 4 pictures at once (data.global_batch_size 8 / train.accumulation 2 / 1 process(es)), computed in fp32" in words
    assert "train.accumulation=4 holds 2 at once" in words
    assert "train.precision=bf16" in words
    assert ("where 2.00 GiB more were asked for" in words) is isinstance(error, torch.OutOfMemoryError)
    assert json.loads(next(Path("runs").glob("*/status.json")).read_text())["state"] == "failed"


def test_other_failures_are_not_called_so(distill, monkeypatch):
    def fail(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(Trainer, "_backward", fail)
    _, _, err = distill("train", *SMALL)
    assert "something else" in err
    assert "out of memory" not in err


@pytest.mark.parametrize(
    "asked, is_fast, words",
    [
        ("auto", True, "bf16"),
        ("auto", False, "fp32 (no fast bf16 here)"),
        ("bf16", False, "bf16 (emulated here, and slower than fp32)"),
        ("bf16", True, "bf16"),
        ("fp32", False, "fp32"),
    ],
)
def test_precision_that_the_device_lacks_is_said(monkeypatch, asked, is_fast, words):
    monkeypatch.setattr(runtime, "_has_fast_bf16", lambda _: is_fast)
    assert runtime.precision_in_words(asked, torch.device("cpu")) == words
