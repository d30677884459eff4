"""Trains a few steps with each method, on any number of processes; started by torchrun in tests/test_methods_processes.py, which compares."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.build.pieces import build_pieces
from distill.build.trainer import build_trainer
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import make_accelerator, processes
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

# without batch norms that are trained and in float64, so that what two processes compute differs by rounding only
EXACT = ["train.precision=fp64", "student.norm=group", "train.max_steps=3", "train.lr=0.01", "train.accumulation=2", "~teacher"]
TEACHERS = "teachers=[{model: timm/test_resnet, weights: random}, {model: timm/test_efficientnet, weights: random}]"
METHODS = {"sampled": [TEACHERS, "answers=sampled"]}
METHODS["mutual"] = ["method=mutual", "peer={model: resnet18, norm: group}", "losses.at.weight=10", "train.ema_decay=0.5"]
METHODS["ema_teacher"] = ["method=ema_teacher", "train.ema_decay=0.5", "losses.at.weight=10"]


def trained(method: str) -> dict[str, Tensor]:
    """All that is trained, and the network that is kept."""
    recipe, source = load_recipe("smoke", [*EXACT, *METHODS[method]]), Synthetic(num_train=32, num_val=9, num_test=9)
    pieces = build_pieces(recipe, Catalogue(), source, device=processes().device, precision="fp64", weights={})
    trainer, scored = build_trainer(recipe, source, pieces, make_accelerator(), precision="fp64", log=lambda event: None)
    trainer.train()
    kept = {f"kept.{name}": tensor for name, tensor in scored.model.state_dict().items()}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in {**pieces.distiller.state_dict(), **kept}.items()}


def main(folder: Path) -> None:
    state = processes()
    assert state.num_processes == 2, state
    for method in METHODS:
        tensors = trained(method)
        save_file(tensors, folder / f"{method}-{state.process_index}.safetensors")
    state.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
