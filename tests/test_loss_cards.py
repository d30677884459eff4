"""What a loss says of itself, read from its docstring and `__init__`: with all fields, some, or none."""

from __future__ import annotations

import typing
from typing import Any, Literal

import pytest

from distill.loss_cards import Argument, LossCard, default_recipe, loss_card, losses_section
from distill.losses.base import DistillLoss
from distill.losses.ce import CrossEntropy
from distill.losses.kd import KD
from distill.recipe_yaml import parse, plain_values, recipe_value

if typing.TYPE_CHECKING:
    from nowhere import Unknown


class Whole(DistillLoss):
    """The idea, as Sun et al. have it, e.g. in two lines
    of text. A second sentence.

    Kind: relation
    Inputs: vectors of both
    Equation: sum_i |s_i - t_i| over
        all i, mean
        over the batch.
    Paper: Somebody: A title, 2024
    Weights: CIFAR-100 2
    Labels: not used
    Cost: none

    A note over
    two lines.

    - a point
    - another: point
    """

    batch_coupled = True
    needs_labels = True
    needs_all_logits = False
    takes_soft_labels = False

    def __init__(self, width: int, layers: list[str] = ["layer1"], mode: Literal["sum", "mean"] = "sum", scale: float | None = None):  # noqa: B006
        super().__init__()

    def forward(self, student: Any, teacher: Any, batch: Any) -> Any: ...


class Bare(DistillLoss):
    pass


class Short(DistillLoss):
    """Only a sentence."""

    def __init__(self, anything=1, *args, unknown: Unknown = 2, **more):
        super().__init__()


class Inner(DistillLoss):
    """No empty line before the labels.
    Kind: logit
    Paper:
    """


def test_every_field_of_the_docstring_is_read():
    card = loss_card("whole", Whole)
    assert card == LossCard(
        name="whole",
        summary="The idea, as Sun et al. have it, e.g. in two lines of text.",
        kind="relation",
        inputs="vectors of both",
        equation="sum_i |s_i - t_i| over all i, mean over the batch.",
        paper="Somebody: A title, 2024",
        weights="CIFAR-100 2",
        labels="not used",
        cost="none",
        notes="A second sentence.\n\nA note over two lines.\n\n- a point\n- another: point",
        arguments=(
            Argument("width", "int", is_required=True),
            Argument("layers", "list[str]", ["layer1"]),
            Argument("mode", "Literal['sum', 'mean']", "sum"),
            Argument("scale", "float | None", None),
        ),
        needs_teacher=True,
        batch_coupled=True,
        needs_labels=True,
        needs_all_logits=False,
        takes_soft_labels=False,
    )


@pytest.mark.parametrize("cls, summary", [(Bare, ""), (Short, "Only a sentence.")])
def test_a_loss_that_says_nothing_gives_empty_fields_and_not_those_of_its_base(cls, summary):
    card = loss_card("own", cls)
    assert card.summary == summary
    assert {card.kind, card.inputs, card.equation, card.paper, card.weights, card.labels, card.cost, card.notes} == {""}


def test_labels_right_after_the_sentence_are_labels():
    card = loss_card("inner", Inner)
    assert (card.summary, card.kind, card.paper) == ("No empty line before the labels.", "logit", "")


def test_types_that_are_not_written_or_can_not_be_found_do_no_harm():
    # what can be given by name in a recipe, and no more
    assert loss_card("short", Short).arguments == (Argument("anything", "", 1), Argument("unknown", "Unknown", 2))


def test_a_type_reads_the_same_whether_python_keeps_it_as_text_or_not():
    scope: dict[str, Any] = {"DistillLoss": DistillLoss, "Literal": Literal}
    source = "class Own(DistillLoss):\n    def __init__(self, a: Literal['x'] = 'x', b: float = 1.0, c: list[str] | None = None): super().__init__()"
    exec(source, scope)
    texts = [argument.type for argument in loss_card("own", scope["Own"]).arguments]
    exec(f"from __future__ import annotations\n{source}", scope)
    assert [argument.type for argument in loss_card("own", scope["Own"]).arguments] == texts == ["Literal['x']", "float", "list[str] | None"]


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"),
        (True, "true"),
        (4.0, "4.0"),
        (7e-05, "7e-05"),
        (3, "3"),
        ("layer4.pre", "layer4.pre"),
        ("true", "'true'"),
        ("Off", "'Off'"),
        ("1e3", "'1e3'"),
        ("it's: so", "'it''s: so'"),
        ("", "''"),
        (["layer3", "layer4"], "[layer3, layer4]"),
        ((1, 2.5), "[1, 2.5]"),
        ({"a": [True, None]}, "{a: [true, null]}"),
    ],
)
def test_a_default_is_written_as_a_recipe_reads_it(value, text):
    assert recipe_value(value) == text
    node, problems = parse(text, lambda line: "")
    assert not problems
    assert plain_values(node) == (list(value) if isinstance(value, tuple) else value)


def test_default_recipe_takes_the_place_of_kd():
    card = loss_card("short", Short)
    assert plain_values(parse(default_recipe(card), lambda line: "")[0]) == {
        "extends": "r50_to_r18",
        "losses": {"ce": {"weight": 1.0}, "kd": None, "short": {"weight": 1.0, "anything": 1, "unknown": 2}},
    }


def test_default_recipe_leaves_what_must_be_given_empty_and_says_so():
    lines = default_recipe(loss_card("whole", Whole)).splitlines()
    assert lines[-5:] == ["    weight: 1.0", "    layers: [layer1]", "    mode: sum", "    scale: null", "    width:  # int, must be given"]


def test_default_recipes_of_kd_and_of_losses_without_a_teacher_name_nothing_twice():
    assert default_recipe(loss_card("kd", KD)).splitlines()[1:-1] == ["losses:", "  ce: {weight: 1.0}"]
    assert default_recipe(loss_card("ce", CrossEntropy)) == "extends: r18_alone\nlosses:\n  ce: {weight: 1.0, label_smoothing: 0.0}"


@pytest.mark.parametrize(
    "recipe, section",
    [
        (
            "extends: x\nlosses:\n  a: {}  # why\n\n  # more\n  b: {}\n\n# of train\ntrain:\n  epochs: 3\n",
            "losses:\n  a: {}  # why\n\n  # more\n  b: {}",
        ),
        ("losses: {a: {}}\nextends: x\n", "losses: {a: {}}"),
        ("losses:\n  a: {}", "losses:\n  a: {}"),
        ("losses:\n  a: {}\n\n# the end\n", "losses:\n  a: {}"),
        ("extends: x\n", ""),
        ("", ""),
    ],
)
def test_losses_section_of_a_recipe_is_copied_as_written(recipe, section):
    assert losses_section(recipe) == section
