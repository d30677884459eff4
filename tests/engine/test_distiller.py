"""Student and losses together: weights and arguments that follow schedules, weights found from gradients, soft labels, records of gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from distill.build.pieces import build_pieces, rehearse
from distill.data.sources.synthetic import Synthetic
from distill.engine import gradients
from distill.engine.gradients import Gradient, auto_weights, measure_gradients
from distill.engine.runtime import make_accelerator
from distill.errors import RecipeError
from distill.models.weight_files import tensors_sha256
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch

CPU = torch.device("cpu")
SOURCE = Synthetic(num_train=64, num_val=8, num_test=8)


def pieces_of(*overrides: str):
    recipe = load_recipe("smoke", ["teacher.model=resnet34", "train.precision=fp32", "train.epochs=2", "train.max_steps=null", *overrides])
    return build_pieces(recipe, Catalogue(), SOURCE, device=CPU, precision="fp32", weights={})


def some_batch(num: int = 8) -> Batch:
    labels, ids = (torch.from_numpy(values[:num]) for values in (SOURCE.train.labels, SOURCE.train.sample_ids))
    return Batch(SOURCE.train.pixels[:num], labels, ids, torch.zeros_like(ids))


def total(pieces, step: int) -> tuple[float, dict[str, float]]:
    pieces.distiller.eval().set_step(step)
    batch = some_batch()
    with torch.no_grad():
        output = pieces.distiller(batch, pieces.teacher(batch))
    return output.loss.item(), {label: term.item() for label, term in output.terms.items()}


def test_weight_follows_its_schedule():
    pieces = pieces_of("losses.kd.weight={schedule: warmup, end: 3.0, epochs: 1}", "losses.ce.weight={schedule: stop_at, start: 1, epochs: 1}")
    for step, kd, ce in ((0, 0.0, 1.0), (4, 1.5, 1.0), (7, 3 * 7 / 8, 1.0), (8, 3.0, 0.0), (15, 3.0, 0.0)):  # 8 steps an epoch
        loss, terms = total(pieces, step)
        assert loss == pytest.approx(kd * terms["kd"] + ce * terms["ce"], rel=1e-5)


def test_argument_follows_its_schedule():
    pieces = pieces_of("losses.kd.temperature={schedule: linear, start: 4, end: 2}")  # over the whole run, 16 steps
    for step, temperature in ((0, 4.0), (8, 3.0), (16, 2.0)):
        assert total(pieces, step)[1]["kd"] == pytest.approx(total(pieces_of(f"losses.kd.temperature={temperature}"), step)[1]["kd"], rel=1e-5)


def test_scheduled_numbers_are_not_in_checkpoints_and_found_weights_are():
    keys = pieces_of("losses.kd={weight: auto(0.5), temperature: {schedule: linear, start: 4, end: 2}}").distiller.state_dict().keys()
    assert {key for key in keys if not key.startswith("student.")} == {"weight_kd", "is_balanced"}
    assert not [key for key in pieces_of("losses.kd.weight=0.5").distiller.state_dict() if not key.startswith("student.")]


def test_one_loss_can_stand_under_two_labels():
    pieces = pieces_of("losses.soft={type: kd, weight: 0.25, temperature: 8}")
    loss, terms = total(pieces, 0)
    assert loss == pytest.approx(0.5 * terms["ce"] + 0.5 * terms["kd"] + 0.25 * terms["soft"], rel=1e-5)
    assert terms["soft"] != terms["kd"]


def by_hand(pieces, batch: Batch, label: str) -> torch.Tensor:
    """The gradient of one term, taken the plain way."""
    student = pieces.distiller.student
    outputs = student(batch.images)
    if label == "cross_entropy":
        term = F.cross_entropy(outputs.logits, batch.labels)
    else:
        term = pieces.distiller.losses[label](outputs, pieces.teacher(batch), batch)
    gradients = torch.autograd.grad(term, list(student.parameters()), allow_unused=True)
    return torch.cat([(p * 0 if g is None else g).detach().flatten() for p, g in zip(student.parameters(), gradients, strict=True)]).double()


def test_gradients_are_measured_right_and_nothing_is_left_behind():
    pieces, batch = pieces_of("losses.at.weight=1"), some_batch()
    before, random = tensors_sha256(pieces.distiller.state_dict()), torch.get_rng_state()
    pieces.distiller.train()
    measured = measure_gradients(pieces.distiller, batch, pieces.teacher(batch), make_accelerator())
    assert tensors_sha256(pieces.distiller.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in pieces.distiller.parameters())
    assert measured.cross_entropy_norm == pytest.approx(by_hand(pieces, batch, "cross_entropy").norm().item(), rel=1e-4)
    reference = by_hand(pieces, batch, "cross_entropy")
    for label in ("kd", "at", "ce"):
        gradient = by_hand(pieces, batch, label)
        assert measured.terms[label].norm == pytest.approx(gradient.norm().item(), rel=1e-4)
        assert measured.terms[label].cosine == pytest.approx(F.cosine_similarity(gradient, reference, dim=0).item(), abs=1e-4)
    assert measured.terms["ce"].cosine == pytest.approx(1.0)


def test_scale_that_is_too_large_for_a_term_is_lowered(monkeypatch):
    """As the scaler's 65536 may be in fp16: the whole loss can bear it, one term alone, before its small weight, can't."""
    pieces, batch = pieces_of("losses.at.weight=1"), some_batch()
    plain = measure_gradients(pieces.distiller, batch, pieces.teacher(batch), make_accelerator())
    flat, scales = gradients._flat_gradient, []

    def overflowing(term, parameters):
        result = flat(term, parameters)
        scales.append(result.abs().max())
        return torch.where(result.abs() > 100, torch.inf, result)

    monkeypatch.setattr(gradients, "_flat_gradient", overflowing)
    scaled = measure_gradients(pieces.distiller, batch, pieces.teacher(batch), make_accelerator(), scale=65536.0)
    assert max(scales) > 100
    assert scaled.terms["kd"].norm == pytest.approx(plain.terms["kd"].norm, rel=1e-3)
    assert scaled.cross_entropy_norm == pytest.approx(plain.cross_entropy_norm, rel=1e-3)


def test_auto_weight_brings_the_gradient_to_its_share_of_cross_entropys():
    pieces, batch = pieces_of("losses.at.weight=auto(0.5)"), some_batch()
    assert not pieces.distiller.is_balanced
    measured = measure_gradients(pieces.distiller, batch, pieces.teacher(batch), make_accelerator())
    weights = auto_weights(pieces.distiller.auto, measured)
    assert weights["at"] * measured.terms["at"].norm == pytest.approx(0.5 * measured.cross_entropy_norm)
    pieces.distiller.balance(weights)
    assert pieces.distiller.is_balanced
    assert pieces.distiller.weight("at").item() == pytest.approx(weights["at"])


def test_auto_weight_of_a_term_without_gradient_is_refused():
    pieces, batch = pieces_of("losses.kd.weight=auto(0.5)"), some_batch()
    measured = measure_gradients(pieces.distiller, batch, pieces.teacher(batch), make_accelerator())
    measured.terms["kd"] = Gradient(0.0, 0.0)
    with pytest.raises(RecipeError, match=r"losses\.kd\.weight: auto\(0\.5\): its gradient has norm 0"):
        auto_weights(pieces.distiller.auto, measured)


def test_mixed_labels_are_refused_before_training_by_a_loss_that_needs_one_class():
    pieces = pieces_of()
    rehearse(pieces, SOURCE, soft_labels=True)
    pieces.distiller.losses["kd"].takes_soft_labels = False
    rehearse(pieces, SOURCE)
    with pytest.raises(RecipeError, match=r"losses\.kd: KD needs one class for each picture"):
        rehearse(pieces, SOURCE, soft_labels=True)


def test_run_records_gradients_and_found_weights(distill):
    options = ["teacher.model=resnet18", "control=false", "losses.kd.weight=auto(0.5)", "train.log_gradients_every=2", "train.epochs=2"]
    code, _, err = distill("train", "--recipe", "smoke", *options, "train.max_steps=4", "data.arguments={num_train: 64, num_val: 8, num_test: 8}")
    assert code == 0, err
    events = [json.loads(line) for line in Path("runs/smoke-seed0/metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "gradients"] == [0, 2]
    (weights,) = [event for event in events if event["event"] == "weights"]
    first = next(event for event in events if event["event"] == "gradients")
    assert weights["kd"] * first["terms"]["kd"]["norm"] == pytest.approx(0.5 * first["cross_entropy_norm"], rel=1e-3)
    assert "weights found from the first step's gradients: kd" in err


def test_records_of_gradients_change_nothing_in_the_training(distill):
    options = ["teacher.model=resnet18", "control=false", "train.precision=fp32", "train.max_steps=3", "data.arguments={num_train: 64}"]
    for name, every in (("with", 1), ("without", 0)):
        code, _, err = distill("train", "--recipe", "smoke", *options, f"run_name={name}", f"train.log_gradients_every={every}")
        assert code == 0, err
    first, second = (tensors_sha256(load_file(f"runs/{name}/student.safetensors")) for name in ("with", "without"))
    assert first == second


def test_teacher_of_other_classes_and_sizes_teaches_by_its_features(distill):
    options = ["teacher.model=resnet34", "teacher.num_classes=7", "teacher.stem=small", "control=false", "losses.kd=null"]
    code, out, err = distill("train", "--recipe", "smoke", *options, "losses.fitnet={weight: 1, layers: [layer3, pooled]}")
    assert code == 0, err
    assert "it knows 7 classes, not these 4" in err
    assert "other classes" in out
    summary = json.loads(Path("runs/smoke-seed0/summary.json").read_text())
    assert "test_top1" not in summary["teacher"]
    assert "agreement" not in summary["distilled"]
