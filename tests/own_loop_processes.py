"""Started by torchrun on two processes (tests/test_two_processes.py): somebody's own loop with Accelerate is the loop of one process with the whole
batch, and `train` gives each process the run."""

from __future__ import annotations

import copy
import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from distill import make_distiller, train
from distill.losses.fitnet import FitNet
from distill.losses.rkd import RelationalKD

TINY = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "control=false", "train.max_steps=1", "train.precision=fp32"]
TINY += ["data.arguments={num_train: 16, num_val: 8, num_test: 8}"]


class Small(nn.Module):
    """Without batch norm, whose statistics are those of a process's own pictures."""

    def __init__(self, width: int):
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(3, width, 3, stride=4), nn.Linear(width, 5)

    def forward(self, images):
        return self.fc(self.layer4(images).relu().mean(dim=(2, 3)))


def step(distiller, images, labels, backward) -> dict[str, torch.Tensor]:
    loss = distiller(images, labels).loss
    backward(loss)
    return {name.removeprefix("module."): parameter.grad.clone() for name, parameter in distiller.named_parameters()}


def make(student: nn.Module, teacher: nn.Module):
    hint = FitNet(layers=["layer4"])
    distiller = make_distiller(student, teacher, {"ce": 1.0, "kd": 1.0, "rkd": (1.0, RelationalKD()), "hint": hint}, image_size=16)
    hint.projectors[0].norm = nn.Identity()
    return distiller.double()


def main() -> None:
    torch.manual_seed(0)
    student, teacher, images, labels = Small(4), Small(8), torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.randint(5, (8,))
    # before there are other processes: relations are then those of this batch alone
    expected = step(make(copy.deepcopy(student), copy.deepcopy(teacher)), images, labels, torch.Tensor.backward)
    accelerator = Accelerator()
    assert accelerator.num_processes == 2
    rank, prepared = accelerator.process_index, accelerator.prepare(make(student, teacher))
    found = step(prepared, images[rank::2], labels[rank::2], accelerator.backward)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-12), name

    (folder,) = broadcast_object_list([tempfile.mkdtemp() if accelerator.is_main_process else None])
    run = train("smoke", [*TINY, f"runs_dir={folder}"])
    first, second = gather_object([(run.path.name, run.row["test_top1"], run.summary)])
    assert first == second
    assert first[0] == "smoke-seed0"
    torch.distributed.destroy_process_group()
    print("both agree")


if __name__ == "__main__":
    main()
