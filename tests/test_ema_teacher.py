"""Self-distillation: the average of the student's weights is its teacher."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from runs import EVERYTHING, SMALL, Killed, contents, kill_at, metrics

from distill.build.pieces import Pieces, build_pieces
from distill.build.trainer import build_trainer
from distill.data.sources.synthetic import Synthetic
from distill.engine.methods.ema_teacher import EmaTeacher
from distill.engine.runtime import make_accelerator
from distill.engine.trainer import Trainer
from distill.recipe import Recipe, what_is_wrong
from distill.recipe_files import fingerprint, load_recipe
from distill.structures import Batch
from distill.student_alone import control_recipe, is_alone

SELF = ["student.model=timm/test_resnet", "~teacher", "method=ema_teacher", "train.ema_decay=0.75"]


def made(*overrides: str) -> tuple[Pieces, Trainer]:
    from distill.resolve import Catalogue

    recipe = load_recipe("smoke", [*SELF, "train.max_steps=6", "losses.at.weight=1", *overrides])
    source = Synthetic(num_train=64, num_val=9, num_test=9)
    pieces = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})
    trainer, scored = build_trainer(recipe, source, pieces, make_accelerator(), precision="fp32", log=lambda event: None)
    assert scored is pieces.teacher.network
    return pieces, trainer


def pictures(num: int = 4) -> Batch:
    ids = torch.arange(num)
    images = torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, ids, ids, ids)


def test_it_answers_with_the_average_of_the_weights_after_each_step():
    pieces, trainer = made()
    student, expected = pieces.distiller.student.model, None
    for step in (1, 2, 3):
        trainer.train(until=step)
        weights = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
        expected = weights if expected is None else {name: 0.75 * expected[name] + 0.25 * weights[name] for name in weights}
    found = dict(pieces.teacher.averaged.module.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    reference = copy.deepcopy(student)
    reference.load_state_dict(expected, strict=False)  # with the student's batch statistics
    network = pieces.distiller.student.like(reference).eval()
    torch.testing.assert_close(pieces.teacher(pictures()).logits, network(pictures().images).logits.detach())


def test_it_gives_features_and_never_a_gradient_and_stays_in_eval_mode():
    pieces, trainer = made("losses.srrl.weight=1")
    trainer.train()
    answers = pieces.teacher(pictures())
    assert set(answers.features) == set(pieces.distiller.student(pictures().images).features)
    assert not any(tensor.requires_grad for tensor in (answers.logits, *answers.features.values(), *answers.head))
    assert all(parameter.grad is None for parameter in pieces.teacher.averaged.parameters())
    assert not any(module.training for module in pieces.teacher.network.modules())
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert not trained & {id(parameter) for parameter in pieces.teacher.averaged.parameters()}
    assert set(pieces.distiller.state_dict()) == {name for name in pieces.distiller.state_dict() if name.startswith(("student.", "losses."))}


def test_teacher_of_a_step_with_accumulation_is_the_same_for_all_of_its_parts(monkeypatch):
    _, trainer = made("train.accumulation=2")
    asked, original = [], EmaTeacher.__call__

    def noted(self, batch):
        asked.append((int(self.averaged.n_averaged), len(batch.images)))
        return original(self, batch)

    monkeypatch.setattr(EmaTeacher, "__call__", noted)
    trainer.train(until=3)
    assert asked == [(0, 8), (1, 8), (2, 8)]


@pytest.mark.parametrize("step", [7, 13])
def test_run_killed_and_gone_on_with_is_the_run_that_was_not(step, distill, monkeypatch):
    arguments = [*SMALL[:2], *SELF, *[word for word in SMALL[2:] if not word.startswith(("teacher.", "student."))], *EVERYTHING]
    arguments = [word for word in arguments if not word.startswith("student.arguments")] + ["train.max_steps=14"]
    assert distill("train", *arguments, "run_name=whole")[0] == 0
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *arguments, "run_name=cut", "train.checkpoint_every_steps=1")
    code, _, err = distill("train", "--resume", "runs/cut")
    assert code == 0, err
    assert f"going on from step-{step - 1:08d}" in err
    assert contents("runs/cut") == contents("runs/whole")


def test_job_says_who_teaches_and_has_the_student_alone_with_the_same_average_beside_it(distill):
    code, out, err = distill("train", "--recipe", "smoke", *SELF, "run_name=run", "losses.kd.temperature=1")
    assert code == 0, err
    assert "where the teacher is the average of its own weights (decay 0.75)" in err
    assert "it learned from the average of its own weights" in " ".join(out.split())
    found = json.loads(Path("runs/run/summary.json").read_text())
    assert "teacher" not in found
    assert found["method"] == "ema_teacher"
    assert found["alone"]["run"] == "run-alone"
    assert load_recipe("runs/run-alone").train.ema_decay == 0.75
    assert {"ce", "kd"} <= set(metrics("runs/run")[0])
    refused = [(["eval", "runs/run", "--role", "teacher"], "leave out --role"), (["cache", "plan", "smoke", *SELF], "nothing of it can be kept")]
    for command, words in refused:
        code, _, err = distill(*command)
        assert code == 2
        assert words in err


def test_doctor_looks_at_it(distill):
    code, out, err = distill("doctor", "smoke", *SELF, "--json")
    assert code == 0, err
    assert "teacher" not in json.loads(out)["memory"]["needs"]["training the student"]


# what a recipe says


def recipe(**more) -> Recipe:
    values = {"student": {"model": "resnet18"}, "losses": {"ce": {}, "kd": {}}, "data": {}, "train": {"epochs": 10, "lr": 0.1, "ema_decay": 0.9}}
    return Recipe.model_validate(values | {"method": "ema_teacher"} | more)


def test_student_alone_is_that_of_any_other_method():
    alone = control_recipe(recipe())
    assert is_alone(alone)
    assert not is_alone(recipe(losses={"ce": {}}))
    assert fingerprint(alone) == fingerprint(control_recipe(recipe(method="distill", teacher={"model": "a", "weights": "b"})))


@pytest.mark.parametrize("change", [{"teacher": {"model": "a", "weights": "b"}}, {"teachers": [{"model": "a", "weights": "b"}] * 2}])
def test_another_teacher_beside_it_is_refused(change):
    with pytest.raises(ValidationError) as caught:
        recipe(**change)
    ((path, message),) = what_is_wrong(caught.value)
    assert path == ("method",)
    assert f"leave out {next(iter(change))}" in message
