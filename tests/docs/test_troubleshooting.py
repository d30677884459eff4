"""Each message that docs/troubleshooting.md quotes is provoked, and is what is printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distill.engine.trainer import Trainer
from distill.models.zoo import create_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = dict(re.findall(r"<!-- said: (\w+) -->\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))

NETWORKS = ["train", "--recipe", "smoke", "student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "control=false", "teacher.check=false"]
SMALL = [*NETWORKS, "data.arguments={num_train: 16, num_val: 8, num_test: 8}", "train.precision=fp32"]
NOT_FINITE = """
from distill.losses.base import DistillLoss


class Odd(DistillLoss):
    needs_sample_ids = True

    def forward(self, student, teacher, batch):
        return (student.logits.mean(dim=1) / (batch.sample_ids != 7)).mean()
"""


def teacher_file(num_classes: int = 4, prefix: str = "") -> str:
    torch.manual_seed(0)
    weights = create_model("timm/test_resnet", num_classes=num_classes).state_dict()
    save_file({prefix + name: tensor for name, tensor in weights.items()}, "teacher.safetensors")
    return "teacher.weights=teacher.safetensors"


def pictures() -> None:
    for label in ("cat", "dog"):
        (Path("pictures") / label).mkdir(parents=True)
        for index in range(20):
            pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"pictures/{label}/{index}.png")


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "_backward", fail)


def stop(distill: Callable) -> None:
    assert distill(*SMALL, "run_name=mine", "time_limit=0.00001")[0] == 75


def case(name: str, distill: Callable, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Prepares what the case needs; the exit code that is expected, and the command."""
    match name:
        case "typo":
            return 2, [*SMALL, "losses.kd.temprature=2", "train.epoch=3"]
        case "layer":
            return 2, [*SMALL, "losses.fitnet={weight: 1, layers: [layer5]}"]
        case "vector":
            return 2, [*SMALL, "losses.at={weight: 1, layers: [pooled]}"]
        case "classes":
            return 2, [*SMALL, "teacher.num_classes=7"]
        case "mixup":
            return 2, [*SMALL, "data.augment.mixup=0.2", "losses.dkd={weight: 1}"]
        case "fp16":
            return 2, [*SMALL, "train.precision=fp16"]
        case "unreached":
            return 2, [*SMALL, "losses.ce=null", "losses.kd=null", "losses.at={weight: 1}"]
        case "prefix":
            return 0, [*SMALL, teacher_file(prefix="module.")]
        case "head":
            return 3, [*SMALL, teacher_file(num_classes=7)]
        case "order":
            return 2, [*SMALL, teacher_file(), "teacher.classes=[wave3, wave1, wave0, ripple]"]
        case "chance":
            return 3, [*SMALL, teacher_file(), "teacher.classes=data", "teacher.check=true"]
        case "not_finite":
            Path("odd.py").write_text(NOT_FINITE)
            return 4, [*SMALL, "losses.odd={weight: 1}", "--plugin", "odd.py"]
        case "memory":
            run_out_of_memory(monkeypatch)
            return 1, SMALL
        case "accumulation":
            return 0, [*SMALL, "train.accumulation=2", "losses.rkd={weight: 1}"]
        case "stopped":
            return 75, [*SMALL, "run_name=mine", "time_limit=0.00001"]
        case "changed":
            stop(distill)
            return 2, ["train", "--resume", "runs/mine", "train.lr=0.1"]
        case "leak":
            pictures()  # cats and dogs are the same noise
            return 0, ["data", "check", "pictures"]
    raise AssertionError(f"no case {name!r}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a CPU")
@pytest.mark.parametrize("name", QUOTED)
def test_the_quoted_message_is_what_is_printed(name, distill, monkeypatch):
    code, arguments = case(name, distill, monkeypatch)
    found, out, err = distill(*arguments)
    flat = " ".join((out + err).split())
    assert found == code, err
    for piece in QUOTED[name].split("..."):
        assert " ".join(piece.split()) in flat


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(named) >= 10
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_page_has_the_twenty_complaints():
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) >= 20
