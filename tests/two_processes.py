"""Started by torchrun on two processes (tests/test_two_processes.py): asserts on every process, and exits non-zero if one fails."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object

from distill.build.pieces import build_pieces
from distill.build.trainer import build_trainer
from distill.data.sampler import StepSampler
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import make_accelerator, processes
from distill.models.weight_files import tensors_sha256
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

OVERRIDES = ["teacher.model=resnet34", "losses.fitnet={weight: 1, layers: [layer3, layer4]}", "losses.at.weight=1", "train.ema_decay=0.9"]
OVERRIDES += ["train.max_steps=3", "train.precision=fp32", "train.lr=0.01", "train.accumulation=2"]


def main() -> None:
    state = processes()
    assert state.num_processes == 2, state
    recipe, source = load_recipe("smoke", OVERRIDES), Synthetic(num_train=64, num_val=9, num_test=9)
    pieces = build_pieces(recipe, Catalogue(), source, device=state.device, precision="fp32", weights={})
    before = tensors_sha256(pieces.teacher.network.model.state_dict())
    trainer, scored = build_trainer(recipe, source, pieces, make_accelerator(), precision="fp32", log=lambda event: None)
    assert trainer.accelerator.num_processes == 2
    seen = [batch.sample_ids.tolist() for batch in trainer.loader.epoch(0)]

    alone = StepSampler(64, 8, seed=0)
    everyones = gather_object([seen])
    for step, expected in enumerate(alone.micro_batches(0)):
        together = [sample for process in everyones for micro in process[2 * step : 2 * step + 2] for sample in micro]
        assert sorted(together) == sorted(expected.tolist())

    trainer.train()
    for module in (pieces.distiller, scored.model):  # weights, projectors, and BatchNorm's statistics
        sums = gather_object([tensors_sha256(module.state_dict())])
        assert sums[0] == sums[1], "the processes have drifted apart"
    assert any(name.startswith("losses.fitnet.projectors") for name in pieces.distiller.state_dict())
    assert tensors_sha256(pieces.teacher.network.model.state_dict()) == before
    results = gather_object([trainer.evaluate(lambda: None)])
    assert results[0] == results[1]
    assert abs(results[0]["val_top1"] * 9 - round(results[0]["val_top1"] * 9)) < 1e-9
    state.wait_for_everyone()
    torch.distributed.destroy_process_group()
    print("both agree")


if __name__ == "__main__":
    main()
