"""A small run that has everything which a checkpoint must hold, and how two of them are compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

# The smallest ResNet that timm has; 22 steps of 5 epochs, of which the last is cut short; metrics that are not read at every checkpoint.
# Everything is: a memory bank, projectors, a learned temperature, an average, weights found in the first step, schedules, dropout, accumulation.
SMALL = ["--recipe", "smoke", "student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "control=false", "teacher.check=false"]
SMALL += ["data.arguments={num_train: 40, num_val: 24, num_test: 24}", "train.epochs=5", "train.max_steps=22", "train.lr=0.05", "train.log_every=3"]
SMALL += ["train.precision=fp32"]
EVERYTHING = ["losses.kd=null", "losses.ctkd={weight: 0.5}", "losses.fitnet={weight: auto(0.5), layers: [layer2, layer4]}", "train.accumulation=2"]
EVERYTHING += ["losses.crd={weight: {schedule: warmup, end: 0.5, epochs: 2}, num_negatives: 8, dim: 16}", "train.ema_decay=0.9"]
EVERYTHING += ["train.log_gradients_every=7", "train.clip_norm=5", "train.optimizer=adamw", "train.lr=0.001"]
EVERYTHING += ["student.arguments={drop_rate: 0.3, drop_path_rate: 0.2}"]

EQUAL = ("student.safetensors", "metrics.jsonl", "predictions.npz")


class Killed(BaseException):
    """What a test raises where a real kill would end the process: nothing in the code catches it."""


def kill_at(monkeypatch, target, name: str, call: int) -> None:
    """The call-th call of a function never comes to be, and neither does anything after it."""
    original, calls = getattr(target, name), []

    def killed(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(target, name, killed)


def contents(run: str | Path) -> dict[str, str]:
    """What must be equal, bit for bit, in two equal runs: results, metrics, and all that the last checkpoint holds."""
    found = {name: _sha256(Path(run) / name) for name in EQUAL}
    return found | {f"{path.parent.name}/{path.name}": _tensors(path) for path in sorted(Path(run).glob("checkpoints/*/*")) if _holds_tensors(path)}


def _holds_tensors(path: Path) -> bool:
    return path.suffix in (".safetensors", ".pt")


def _tensors(path: Path) -> str:
    if path.suffix == ".safetensors":
        return _sha256(path)
    return hashlib.sha256(repr(_plain(torch.load(path, weights_only=True))).encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metrics(run: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
