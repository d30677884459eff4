"""Values that are not finite: they never reach the weights, the run stops and says what it was, and that batch can be run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from odd_losses import NotFinite
from runs import SMALL, metrics
from safetensors.torch import load_file

from distill.engine.optim import make_optimizer

PLUGIN = ["--plugin", str(Path(__file__).parent / "odd_losses.py")]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fused_optimizer_leaves_out_a_step_when_told_so_on_the_device(name, bad):
    """What the trainer rests on; torch documents it for its own GradScaler only."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [make_optimizer(layer, name=name, lr=0.1, weight_decay=0.1) for layer in layers]
    for step in range(4):
        for layer, optimizer in zip(layers, optimizers, strict=True):
            layer(torch.randn(2, 5, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.found_inf = torch.tensor(0.0)
            optimizer.step()
            optimizer.zero_grad()
        layers[0](torch.full((2, 5), bad)).sum().backward()
        optimizers[0].found_inf = torch.tensor(1.0)
        optimizers[0].step()
        optimizers[0].zero_grad()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(layers[0].parameters(), layers[1].parameters(), strict=True))
    ours, theirs = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert all(torch.equal(ours[index][key], theirs[index][key]) for index in ours for key in ours[index])


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("options", [[], ["train.clip_norm=1"], ["train.optimizer=adamw", "train.ema_decay=0.9"], ["train.accumulation=2"]])
def test_value_that_is_not_finite_stops_the_run_at_the_next_record_and_is_named(gradient_only, options, distill):
    """Sample 7 in its second view, which is in one of the steps 6 to 10; records are written every 3 steps."""
    bad = f"losses.not_finite={{weight: 1, sample_id: 7, view: 1, gradient_only: {str(gradient_only).lower()}}}"
    arguments = [*SMALL, *PLUGIN, bad, "train.checkpoint_every_steps=2", "run_name=bad", *options]
    code, _, err = distill("train", *arguments)
    assert code == 4
    found = json.loads(Path("runs/bad/diverged.json").read_text())
    assert 5 <= found["step"] < 10
    assert 7 in found["sample_ids"]
    assert len(found["sample_ids"]) == 8
    assert f"step {found['step'] + 1}:" in err
    assert "distill doctor --replay runs/bad" in err
    assert "unexpected" not in err
    if gradient_only:
        assert found["terms"] == []
        assert "not the gradient of one of them" in err
    else:
        assert found["terms"] == ["not_finite"]
        assert "the loss 'not_finite' is inf" in err
    newest = Path("runs/bad/checkpoints") / Path("runs/bad/checkpoints/latest").read_text()
    state = json.loads((newest / "state.json").read_text())
    assert state["step"] == found["step"] - found["step"] % 2 or state["step"] == 5
    assert f"the last good checkpoint is {newest}" in err
    for file in newest.glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
    assert max(line["step"] for line in metrics("runs/bad")) <= found["step"]
    assert json.loads(Path("runs/bad/status.json").read_text())["exit_code"] == 4


def test_weights_are_untouched_by_the_step_that_was_not_finite(distill, monkeypatch):
    from distill.engine.trainer import Trainer

    original, seen = Trainer._update, []

    def update(self):
        before = [parameter.detach().clone() for parameter in self.parameters]
        step = self.step
        try:
            original(self)
        finally:
            seen.append((step, all(map(torch.equal, before, self.parameters))))

    monkeypatch.setattr(Trainer, "_update", update)
    bad = "losses.not_finite={weight: 1, sample_id: 7, view: 1}"
    assert distill("train", *SMALL, *PLUGIN, bad, "run_name=bad")[0] == 4
    step = json.loads(Path("runs/bad/diverged.json").read_text())["step"]
    assert [unchanged for number, unchanged in seen] == [number == step for number, _ in seen]


def test_run_that_diverged_is_no_obstacle_to_the_next(distill):
    bad = "losses.not_finite={weight: 1, sample_id: 7, view: 1}"
    assert distill("train", *SMALL, *PLUGIN, bad)[0] == 4
    assert distill("train", *SMALL)[0] == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["smoke-seed0", "smoke-seed0-2"]


def test_odd_loss_is_odd_for_its_picture_only():
    from distill.structures import Batch, Outputs

    loss = NotFinite(sample_id=7, view=1)
    for ids, view, is_finite in (([7, 8], 0, True), ([8, 9], 1, True), ([8, 7], 1, False)):
        batch = Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2).long(), torch.tensor(ids), torch.full((2,), view))
        assert bool(loss(Outputs(torch.ones(2, 4), {}, None), None, batch).isfinite()) is is_finite
