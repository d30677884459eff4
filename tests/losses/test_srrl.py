"""Softmax regression representation learning by hand; whose classifier is used, and what learns from it."""

from dataclasses import replace

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.srrl import SRRL
from distill.structures import FeatureShape, Head

TEACHERS = Head(torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]), torch.tensor([0.5, 0.0, -1.0]))
STUDENTS = Head(torch.full((3, 1), 100.0), torch.zeros(3))


def srrl(**arguments) -> SRRL:
    """In eval mode: the projector is then its convolution, times 1 / sqrt(1 + 1e-5)."""
    loss = SRRL(**arguments)
    teacher = replace(info(layer4=FeatureShape(2, 1, 2), pooled=FeatureShape(2)), head_weight=TEACHERS.weight, head_bias=TEACHERS.bias)
    loss.setup(info(layer4=FeatureShape(1, 1, 2), pooled=FeatureShape(1)), teacher)
    with torch.no_grad():
        loss.projector.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
    return loss.eval()


def answers() -> tuple:
    student = outputs(normal(2, 3), STUDENTS, layer4=torch.tensor([[1.0, -1.0], [3.0, 0.0]]).reshape(2, 1, 1, 2), pooled=torch.zeros(2, 1))
    logits = torch.tensor([[2.0, -1.0, 2.0], [3.0, 0.0, 8.0]])
    return student, outputs(logits, TEACHERS, layer4=torch.zeros(2, 2, 1, 2), pooled=torch.tensor([[1.0, 1.5], [2.0, 0.0]]))


@pytest.mark.parametrize("alpha, beta", [(1.0, 0.0), (0.0, 1.0), (1.0, 5.0)])
def test_srrl_by_hand(alpha, beta):
    # projected and ReLU: (2, 0) and (0, 1), mean over places (1, 0.5); second sample (6, 0) and (0, 0), mean (3, 0)
    features = ((1 - 1) ** 2 + (0.5 - 1.5) ** 2 + (3 - 2) ** 2 + 0**2) / 4
    # the teacher's classifier on them: (1 + 1 + 0.5, -0.5, 3 - 1) and (3 + 0.5, 0, 9 - 1)
    logits = ((2.5 - 2) ** 2 + (-0.5 + 1) ** 2 + (2 - 2) ** 2 + (3.5 - 3) ** 2 + 0 + 0) / 6
    value = srrl(alpha=alpha, beta=beta)(*answers(), batch([0, 0]))
    assert value.item() == pytest.approx(alpha * features + beta * logits, rel=1e-4)


def test_the_places_are_averaged_after_the_relu():
    # -1 and 1 average to 0 before a ReLU, and to 2 * 1 / 2 after it
    student, teacher = answers()
    student.features["layer4"] = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(2, 1, 1, 2)
    teacher.features["pooled"] = torch.tensor([[1.0, 0.5], [1.0, 0.5]])
    assert srrl(beta=0.0)(student, teacher, batch([0, 0])).item() == pytest.approx(0, abs=1e-8)


def test_projector_and_features_learn_and_the_students_classifier_does_not():
    loss, (student, teacher) = srrl(), answers()
    classifier = Head(STUDENTS.weight.clone().requires_grad_(), STUDENTS.bias.clone().requires_grad_())
    student.features["layer4"].requires_grad_()
    loss(student._replace(head=classifier), teacher, batch([0, 0])).backward()
    assert student.features["layer4"].grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert classifier.weight.grad is None


def test_a_classifier_without_bias_will_do():
    student, teacher = answers()
    value = srrl()(student, teacher._replace(head=Head(TEACHERS.weight, None), logits=teacher.logits - TEACHERS.bias), batch([0, 0]))
    assert value.item() == pytest.approx(srrl()(student, teacher, batch([0, 0])).item(), rel=1e-5)


def test_srrl_refuses_a_teacher_without_a_classifier():
    shapes = {"layer4": FeatureShape(2, 4, 4), "pooled": FeatureShape(2)}
    with pytest.raises(RecipeError, match="needs the teacher's classifier as a linear layer, and net has none"):
        SRRL().setup(info(**shapes), info(**shapes))


def test_srrl_refuses_a_vector_and_negative_weights():
    teacher = replace(info(pooled=FeatureShape(2)), head_weight=TEACHERS.weight)
    with pytest.raises(RecipeError, match="the student's 'pooled' is a vector"):
        SRRL(layer="pooled").setup(info(pooled=FeatureShape(2)), teacher)
    with pytest.raises(RecipeError, match=r"beta must be 0 or more, got -1\.0"):
        SRRL(beta=-1.0)
