"""The step and the loop: who is trained, who is not, and that it learns."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.data.loader import EvaluationLoader, TrainingLoader
from distill.data.sampler import StepSampler
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine import teacher as teachers
from distill.engine.distiller import Distiller
from distill.engine.evaluation import score
from distill.engine.network import Network
from distill.engine.optim import make_optimizer, make_schedule
from distill.engine.runtime import make_accelerator
from distill.engine.teacher import Teacher
from distill.engine.trainer import Trainer
from distill.errors import DivergedError
from distill.losses.at import AttentionTransfer
from distill.losses.ce import CrossEntropy
from distill.losses.fitnet import FitNet
from distill.losses.kd import KD
from distill.models.hooks import measure_shapes
from distill.models.weight_files import tensors_sha256
from distill.models.zoo import create_model, describe

SOURCE = Synthetic(num_train=64, num_val=30, num_test=30)
NORMAL = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def checksum(model: torch.nn.Module) -> str:
    return tensors_sha256(model.state_dict())


def make_network(name: str, seed: int = 0, layers=(), norm="batch", **options) -> Network:
    torch.manual_seed(seed)
    return Network(create_model(name, num_classes=4, norm=norm), layers=layers, **NORMAL, **options)


def make_distiller(losses, weights=None, student="resnet18", **options):
    """(distiller, teacher), the teacher a ResNet-34 with random weights."""
    layers = sorted({layer for loss in losses.values() for layer in loss.layers})
    networks = make_network(student, 0, layers, **options), make_network("resnet34", 1, layers, **options)
    infos = [describe(network.model, "resnet", measure_shapes(network.model, network.hooks, 32), 4) for network in networks]
    for loss in losses.values():
        loss.setup(*infos)
    return Distiller(networks[0], losses, weights or dict.fromkeys(losses, 1.0)), Teacher(networks[1])


def make_trainer(distiller, teacher, *, num_steps=4, lr=0.05, accumulation=1, batch=16, events=None, source=SOURCE, **options):
    sampler = StepSampler(len(source.train), batch, seed=0, accumulation=accumulation)
    views = Views(32, crop="padded", padding=2, flip=0.5)
    accelerator = make_accelerator()
    validation = EvaluationLoader(source.val, 32, batch_size=16, device=accelerator.device)
    return Trainer(
        accelerator=accelerator,
        distiller=distiller,
        teacher=teacher,
        optimizer=make_optimizer(distiller, name="sgd", lr=lr, weight_decay=1e-4),
        loader=TrainingLoader(source.train, views, sampler, view_seed=0, num_views=100, device=accelerator.device),
        schedule=make_schedule(lr=lr, num_steps=num_steps),
        num_steps=num_steps,
        evaluate=lambda check: {"val_top1": score({"student": distiller.student}, validation, accelerator)["student"].top1},
        log=(events if events is not None else []).append,
        log_every=2,
        **options,
    )


ALL_LOSSES = {"ce": CrossEntropy, "kd": KD, "fitnet": FitNet, "at": AttentionTransfer}


def all_losses():
    return {label: cls() for label, cls in ALL_LOSSES.items()}


def test_teacher_is_unchanged_by_training_bit_for_bit():
    distiller, teacher = make_distiller(all_losses())
    before = checksum(teacher.network.model)
    distiller.train()
    make_trainer(distiller, teacher, num_steps=5).train()
    assert checksum(teacher.network.model) == before
    assert not teacher.network.training
    assert not any(module.training for module in teacher.network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.network.parameters())


def test_teacher_is_no_part_of_what_is_trained_or_saved():
    distiller, teacher = make_distiller(all_losses())
    inside = {id(parameter) for parameter in distiller.parameters()}
    assert not inside & {id(parameter) for parameter in teacher.network.parameters()}


def test_every_parameter_of_student_and_losses_is_moved_by_a_step():
    distiller, teacher = make_distiller(all_losses())
    before = {name: parameter.clone() for name, parameter in distiller.named_parameters()}
    make_trainer(distiller, teacher, num_steps=2).train()
    assert any(name.startswith("losses.fitnet") for name in before)
    still = [name for name, parameter in distiller.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []


@pytest.mark.parametrize("label", ["fitnet", "at"])
def test_each_feature_loss_alone_reaches_the_students_first_convolution(label):
    distiller, teacher = make_distiller({label: ALL_LOSSES[label]()})
    batch = next(iter(make_trainer(distiller, teacher).loader.epoch(0)))
    distiller(batch, teacher(batch)).loss.backward()
    assert distiller.student.model.conv1.weight.grad.abs().sum() > 0


def test_loss_is_the_weighted_sum_of_its_terms():
    distiller, teacher = make_distiller(all_losses(), {"ce": 0.5, "kd": 2.0, "fitnet": 0.0, "at": 10.0})
    batch = next(iter(make_trainer(distiller, teacher).loader.epoch(0)))
    output = distiller(batch, teacher(batch))
    expected = 0.5 * output.terms["ce"] + 2.0 * output.terms["kd"] + 10.0 * output.terms["at"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not any(term.requires_grad for term in output.terms.values())


def test_no_feature_map_outlives_the_step():
    distiller, teacher = make_distiller(all_losses())
    batch = next(iter(make_trainer(distiller, teacher).loader.epoch(0)))
    alive = []
    distiller.losses["at"].register_forward_pre_hook(lambda module, inputs: alive.extend(weakref.ref(value) for value in inputs[0].features.values()))
    output = distiller(batch, teacher(batch))
    output.loss.backward()
    del output
    gc.collect()
    assert len(alive) == 4
    assert not any(reference() is not None for reference in alive)


def test_half_precision_features_reach_losses_and_losses_are_computed_in_float32():
    distiller, teacher = make_distiller(all_losses(), autocast_dtype=torch.bfloat16)
    seen = {}
    distiller.losses["at"].register_forward_pre_hook(lambda module, inputs: seen.update(student=inputs[0], teacher=inputs[1]))
    batch = next(iter(make_trainer(distiller, teacher).loader.epoch(0)))
    output = distiller(batch, teacher(batch))
    assert seen["student"].features["layer4"].dtype == seen["teacher"].features["layer4"].dtype == torch.bfloat16
    assert seen["student"].logits.dtype == torch.float32
    assert {term.dtype for term in output.terms.values()} == {torch.float32}
    output.loss.backward()


def test_accumulated_micro_batches_give_the_whole_batchs_step():
    """With GroupNorm, because BatchNorm's statistics do depend on the micro-batch."""
    weights = []
    for accumulation in (1, 4):
        distiller, teacher = make_distiller({"ce": CrossEntropy(), "kd": KD(), "at": AttentionTransfer()}, norm="group")
        distiller.double()
        teacher.network.double()
        make_trainer(distiller, teacher, num_steps=3, accumulation=accumulation).train()
        weights.append(torch.cat([parameter.flatten() for parameter in distiller.student.model.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 1e-12


def test_training_twice_gives_the_same_bits():
    sums = []
    for _ in range(2):
        distiller, teacher = make_distiller(all_losses())
        make_trainer(distiller, teacher, num_steps=3).train()
        sums.append(checksum(distiller))
    assert sums[0] == sums[1]


def test_student_learns_the_synthetic_classes():
    source = Synthetic(num_train=256, num_val=60, num_test=60)
    distiller, events = Distiller(make_network("resnet18"), {"ce": CrossEntropy()}, {"ce": 1.0}), []
    make_trainer(distiller, None, num_steps=48, lr=0.02, source=source, events=events).train()
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert epochs[-1]["val_top1"] > 0.9
    losses = [event["loss"] for event in events if event["event"] == "train"]
    assert losses[-1] < losses[0] / 4


def test_log_has_every_term_and_the_learning_rate():
    distiller, teacher = make_distiller(all_losses())
    events = []
    make_trainer(distiller, teacher, num_steps=4, events=events, lr=0.05).train()
    trained = [event for event in events if event["event"] == "train"]
    assert [event["step"] for event in trained] == [2, 4]
    assert set(ALL_LOSSES) <= set(trained[0])
    assert trained[0]["lr"] == pytest.approx(make_schedule(lr=0.05, num_steps=4)(1))
    assert trained[0]["loss"] == pytest.approx(sum(trained[0][label] for label in ALL_LOSSES), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_training_and_is_named():
    class Explodes(CrossEntropy):
        def forward(self, student, teacher, batch):
            return super().forward(student, teacher, batch) * float("inf")

    distiller, teacher = make_distiller({"ce": CrossEntropy(), "boom": Explodes()})
    before = checksum(distiller.student.model)
    with pytest.raises(DivergedError, match=r"step 1: the loss 'boom' is inf.*train\.lr.*losses\.boom\.weight"):
        make_trainer(distiller, teacher).train()
    parameters = dict(distiller.student.model.named_parameters())
    assert all(value.isfinite().all() for value in parameters.values())
    assert before != ""


def test_clipping_bounds_the_step():
    moved = []
    for clip_norm in (None, 1e-3):
        distiller, teacher = make_distiller({"ce": CrossEntropy(), "kd": KD()})
        before = torch.cat([parameter.detach().flatten() for parameter in distiller.parameters()])
        trainer = make_trainer(distiller, teacher, num_steps=1, lr=1.0, clip_norm=clip_norm)
        trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
        trainer.train()
        moved.append((torch.cat([parameter.detach().flatten() for parameter in distiller.parameters()]) - before).norm().item())
    assert moved[0] > 1e-2
    assert moved[1] <= 1e-3 * 1.9 + 1e-6  # nesterov's first step is 1.9 times the gradient


@pytest.mark.parametrize("most_pixels, num_calls", [(10**9, 3), (2 * 4 * 32**2, 6), (1, 12)])
def test_teacher_is_asked_once_for_a_batch_that_is_accumulated_in_parts(monkeypatch, most_pixels, num_calls):
    """3 steps of 4 parts of 4 pictures: in one call each; in two where two parts fit into one; else part by part. The student learns the same."""
    found = []
    for accumulation, most in ((1, 10**9), (4, most_pixels)):
        monkeypatch.setattr(teachers, "_MOST_PIXELS", most)
        distiller, teacher = make_distiller({"ce": CrossEntropy(), "kd": KD(), "at": AttentionTransfer()}, norm="group")
        sizes = []
        teacher.network.model.register_forward_hook(lambda module, inputs, _, sizes=sizes: sizes.append(len(inputs[0])))
        make_trainer(distiller, teacher, num_steps=3, accumulation=accumulation).train()
        found.append(torch.cat([parameter.detach().flatten() for parameter in distiller.parameters()]))
    assert sizes == [48 // num_calls] * num_calls
    assert torch.allclose(*found, atol=1e-5)


def test_loss_scaling_as_for_fp16_changes_nothing_in_float32():
    parameters = []
    for enabled in (False, True):
        distiller, teacher = make_distiller({"ce": CrossEntropy(), "kd": KD()})
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**10)
        make_trainer(distiller, teacher, num_steps=3, clip_norm=0.5, scaler=scaler).train()
        parameters.append(torch.cat([parameter.detach().flatten() for parameter in distiller.parameters()]))
    assert torch.allclose(*parameters, atol=1e-6)
    assert not torch.equal(parameters[0], torch.zeros_like(parameters[0]))


def test_steps_that_a_loss_scaler_leaves_out_do_not_count():
    """As for fp16: a gradient that overflows is scaled down and tried again, and nothing is said."""
    distiller, teacher = make_distiller({"ce": CrossEntropy()})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    trainer = make_trainer(distiller, teacher, num_steps=4, scaler=scaler)
    trainer.train()
    assert scaler.get_scale() < 2.0**127
    assert all(parameter.isfinite().all() for parameter in distiller.parameters())


def test_moving_average_follows_the_closed_form():
    distiller, teacher = make_distiller({"ce": CrossEntropy()})
    averaged = AveragedModel(distiller.student.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    trainer, history = make_trainer(distiller, teacher, num_steps=3, averaged=averaged), []
    trainer.optimizer.register_step_post_hook(lambda *_: history.append(distiller.student.model.fc.weight.detach().clone()))
    trainer.train()
    expected = history[0]
    for weight in history[1:]:
        expected = 0.5 * expected + 0.5 * weight
    assert torch.allclose(averaged.module.fc.weight, expected, atol=1e-7)


def test_score_counts_each_sample_once_and_restores_modes():
    network = make_network("resnet18")
    network.train()
    accelerator = make_accelerator()
    loader = EvaluationLoader(SOURCE.val, 32, batch_size=7, device=accelerator.device)
    result = score({"student": network}, loader, accelerator)["student"]
    assert network.training
    network.eval()
    with torch.no_grad():
        logits = network(SOURCE.val.pixels).logits
    expected = (logits.argmax(1).numpy() == SOURCE.val.labels).mean()
    assert result.top1 == expected
    assert result.nll == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.from_numpy(SOURCE.val.labels)).item(), rel=1e-5)
    np.testing.assert_array_equal(result.labels, SOURCE.val.labels)


def test_network_normalises_like_torchvision():
    from torchvision.transforms.v2.functional import normalize

    network = Network(torch.nn.Identity(), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pictures = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    expected = normalize(pictures.float() / 255, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert torch.allclose(network(pictures).logits, expected, atol=1e-6)
