"""From recipe to classes: arguments checked from typed signatures, pieces built the same way every time, a rehearsal that leaves no trace."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from distill.build import pieces as pieces_module
from distill.build.arguments import check_arguments, construct
from distill.build.measuring import measure
from distill.build.pieces import build_pieces, rehearse
from distill.build.plan import plan_run
from distill.data.sources.synthetic import Synthetic
from distill.errors import RecipeError
from distill.losses.ce import CrossEntropy
from distill.losses.fitnet import FitNet
from distill.models.weight_files import tensors_sha256
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

CPU = torch.device("cpu")
SOURCE = Synthetic(num_train=64, num_val=8, num_test=8)


class Example:
    def __init__(self, layers: list[str], scale: float = 1.0, num: int = 2, mode: Literal["mean", "sum"] = "mean", flag: bool = False):
        if scale > 10:
            raise RecipeError("scale must be 10 at most")
        self.given = (layers, scale, num, mode, flag)


def test_arguments_are_coerced_to_their_types():
    example, wrong = construct(Example, {"layers": ["a"], "scale": 3, "flag": True})
    assert wrong == []
    assert example.given == (["a"], 3.0, 2, "mean", True)
    assert isinstance(example.given[1], float)


@pytest.mark.parametrize(
    ("given", "argument", "part"),
    [
        ({}, "layers", "must be given"),
        ({"layers": "a"}, "layers", "list"),
        ({"layers": [], "scale": True}, "scale", "true"),
        ({"layers": [], "scale": "big"}, "scale", "number"),
        ({"layers": [], "num": 1.5}, "num", "whole number"),
        ({"layers": [], "mode": "max"}, "mode", "'mean' or 'sum'"),
        ({"layers": [], "scael": 1}, "scael", "did you mean 'scale'"),
        ({"layers": [], "scale": float("nan")}, "scale", "finite"),
        ({"layers": [], "scale": 11}, "", "10 at most"),
    ],
)
def test_wrong_arguments_are_named(given, argument, part):
    example, wrong = construct(Example, given)
    assert example is None
    assert [name for name, _ in wrong] == [argument]
    assert part in wrong[0][1]


def test_several_wrong_arguments_are_all_told():
    _, wrong = check_arguments(Example, {"scale": "big", "scael": 1, "num": True})
    assert {name for name, _ in wrong} >= {"scale", "scael", "num"}


def pieces_of(*overrides: str):
    recipe = load_recipe("smoke", ["teacher.model=resnet18", "train.precision=fp32", *overrides])
    return recipe, build_pieces(recipe, Catalogue(), SOURCE, device=CPU, precision="fp32", weights={})


def test_rehearsal_leaves_no_trace():
    _, pieces = pieces_of("losses.fitnet.weight=1", "losses.at.weight=1")
    before = tensors_sha256(pieces.distiller.state_dict()), tensors_sha256(pieces.teacher.network.model.state_dict())
    rehearse(pieces, SOURCE)
    assert before == (tensors_sha256(pieces.distiller.state_dict()), tensors_sha256(pieces.teacher.network.model.state_dict()))
    assert all(parameter.grad is None for parameter in pieces.distiller.parameters())
    assert pieces.distiller.training


def test_students_initial_weights_depend_on_the_seed_alone():
    students = [
        tensors_sha256(pieces_of(*overrides)[1].distiller.student.model.state_dict())
        for overrides in ((), ("losses.fitnet.weight=1",), ("teacher.model=resnet34",), ("seed=1",))
    ]
    assert students[0] == students[1] == students[2] != students[3]


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    pieces_of("losses.fitnet.weight=1")
    assert torch.equal(torch.rand(1), expected)


def test_rehearsal_names_a_loss_that_is_not_a_scalar_or_not_finite():
    for value, part in ((float("nan"), "nan"), (torch.zeros(2), r"\[\d")):
        _, pieces = pieces_of()

        class Odd(CrossEntropy):
            def forward(self, student, teacher, batch, value=value):
                return super().forward(student, teacher, batch) + value

        pieces.distiller.losses["ce"] = Odd()
        with pytest.raises(RecipeError, match=rf"losses\.ce.*{part}"):
            rehearse(pieces, SOURCE)


def test_losses_know_which_map_the_classifier_takes_the_mean_of():
    def of(model: str, layer: str) -> frozenset[str]:
        recipe = load_recipe("smoke", [f"student.model={model}", f"losses.fitnet={{weight: 1, layers: [{layer}]}}", "data.image_size=64"])
        network, _ = pieces_module._network(
            "student", recipe.student, recipe, SOURCE, Catalogue(), {"fitnet": FitNet(layers=[layer])}, CPU, precision="bf16", weights=None
        )
        return measure(network, model, 64).not_pooled

    assert of("resnet18", "layer4") == of("timm/regnety_002", "s4") == frozenset()
    assert of("resnet18", "layer3") == {"layer3"}
    assert of("torchvision/convnext_tiny", "features.7") == {"features.7"}  # a norm stands between the mean and the classifier


def test_margins_of_ofd_come_from_the_batch_norm_of_the_stage_whatever_its_name():
    overrides = ["teacher.model=resnet34", "teacher.features={deep: layer4}", "student.features={deep: layer4}"]
    _, pieces = pieces_of(*overrides, "losses.ofd={weight: 1, layers: [layer4.pre, last.pre, deep.pre]}")
    loss = pieces.distiller.losses["ofd"]
    assert torch.equal(loss.margin0, loss.margin1)
    assert torch.equal(loss.margin0, loss.margin2)


def test_frozen_norms_and_group_norms_come_from_the_recipe():
    _, pieces = pieces_of("student.norm=group", "teacher.norm=frozen")
    assert type(pieces.distiller.student.model.bn1).__name__ == "GroupNorm"
    assert type(pieces.teacher.network.model.bn1).__name__ == "FrozenBatchNorm2d"


def test_plan_counts_steps_and_epochs():
    recipe, _ = pieces_of("train.epochs=3", "train.max_steps=null")
    plan = plan_run(recipe, SOURCE, world_size=2)
    assert (plan.steps_per_epoch, plan.num_steps, plan.num_epochs) == (8, 24, 3)
    with pytest.raises(RecipeError, match=r"global_batch_size=8 can't be divided among 3 process"):
        plan_run(recipe, SOURCE, world_size=3)
