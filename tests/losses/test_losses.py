"""What holds for the first four losses alike; each has a file of its own for its values."""

import torch
from helpers import batch, info, normal, outputs

from distill.losses.at import AttentionTransfer
from distill.losses.ce import CrossEntropy
from distill.losses.fitnet import FitNet
from distill.losses.kd import KD
from distill.structures import FeatureShape


def test_double_precision_stays_double_in_every_loss():
    logits, features = normal(2, 3, dtype=torch.float64), normal(2, 4, 5, 5, dtype=torch.float64)
    for loss in (CrossEntropy(), KD(), AttentionTransfer(layers=["layer3"]), FitNet()):
        shapes = {"layer3": FeatureShape(4, 5, 5)}
        loss.setup(info(**shapes), info(**shapes))
        assert loss.double()(outputs(logits, layer3=features), outputs(logits, layer3=features), batch([0, 1])).dtype == torch.float64


def test_every_loss_answers_a_scalar_with_gradient_for_the_student_alone():
    shapes = {"layer3": FeatureShape(4, 5, 5)}
    for loss in (CrossEntropy(), KD(), AttentionTransfer(layers=["layer3"]), FitNet()):
        loss.setup(info(**shapes), info(**shapes))
        student = outputs(normal(2, 3, seed=1).requires_grad_(), layer3=normal(2, 4, 5, 5, seed=1).requires_grad_())
        value = loss(student, outputs(normal(2, 3, seed=2), layer3=normal(2, 4, 5, 5, seed=2)), batch([0, 1]))
        assert value.shape == ()
        value.backward()
        assert (student.features["layer3"] if loss.layers else student.logits).grad.abs().sum() > 0
