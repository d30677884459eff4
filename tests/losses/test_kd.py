"""Knowledge distillation by hand, against torchdistill and timm, and its gradient's size."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs
from timm.task.distillation import LogitDistillationTask
from torch import nn
from torchdistill.losses.mid_level import KDLoss

from distill.errors import RecipeError
from distill.losses.ce import CrossEntropy
from distill.losses.kd import KD, kd
from distill.losses.ls_kd import LogitStandardisedKD

# Hinton, Vinyals, Dean, 2015: equation 1 gives the softened classes, section 2 the factor T^2


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_kd_by_hand(temperature):
    # Equation 1: logits times T, softened by T, are again the classes above. KL of the first sample: 0.5 ln 2 + 0.25 ln 0.5; of the second: 0.
    value = KD(temperature)(outputs(STUDENT * temperature), outputs(TEACHER * temperature), batch([0, 0]))
    assert value.item() == pytest.approx(temperature**2 * 0.25 * math.log(2) / 2, rel=1e-5)


def test_kd_asks_what_the_teacher_knows_and_not_the_reverse():
    # KL(teacher || student) of (0.8, 0.1, 0.1) to (0.4, 0.3, 0.3); the reverse is 0.4 ln 0.5 + 0.6 ln 3 = 0.382
    value = kd(torch.tensor([[0.4, 0.3, 0.3]]).log(), torch.tensor([[0.8, 0.1, 0.1]]).log(), 1.0)
    assert value.item() == pytest.approx(0.8 * math.log(2) - 0.2 * math.log(3), rel=1e-5)


def test_kd_gradient_keeps_its_size_over_temperatures():
    # Section 2, equation 4: for high temperatures the gradient of T^2 times the loss is (s - t) / K for logits of mean 0; here, mean over N too.
    student, teacher = normal(64, 10, seed=1, dtype=torch.float64), normal(64, 10, seed=2, dtype=torch.float64)
    student, teacher = (0.5 * (logits - logits.mean(dim=1, keepdim=True)) for logits in (student, teacher))
    limit = ((student - teacher) / 10 / 64).norm().item()
    for temperature in (1, 2, 4, 10):
        logits = student.clone().requires_grad_()
        kd(logits, teacher, temperature).backward()
        assert logits.grad.norm().item() == pytest.approx(limit, rel=0.15), temperature
    assert logits.grad.flatten().tolist() == pytest.approx(((student - teacher) / 640).flatten().tolist(), abs=0.1 * limit)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_of_a_batch_twice_over_is_kd_of_the_batch(temperature):
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    assert kd(student.repeat(2, 1), teacher.repeat(2, 1), temperature).item() == pytest.approx(kd(student, teacher, temperature).item(), rel=1e-6)


def test_kd_ignores_a_shift_of_all_logits_and_stays_finite_for_huge_ones():
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    assert kd(student + 50, teacher - 20, 4.0).item() == pytest.approx(kd(student, teacher, 4.0).item(), rel=1e-3)
    huge = (1e4 * student).requires_grad_()
    value = kd(huge, -1e4 * teacher, 1.0)
    value.backward()
    assert value.isfinite()
    assert huge.grad.isfinite().all()


def test_kd_of_equal_logits_is_zero():
    assert kd(normal(5, 7), normal(5, 7), 4.0).item() == pytest.approx(0, abs=1e-6)


def test_kd_gradient_is_right_in_double_precision():
    student, teacher = normal(3, 4, seed=1, dtype=torch.float64).requires_grad_(), normal(3, 4, seed=2, dtype=torch.float64)
    assert kd(student, teacher, 3.0).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda logits: kd(logits, teacher, 3.0), student)


def test_kd_refuses_networks_of_different_classes():
    KD().setup(info(10), info(10))
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        KD().setup(info(10), info(1000))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_kd_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(RecipeError, match=f"temperature must be above 0, got {temperature}"):
        KD(temperature=temperature)


# Other implementations


class Fixed(nn.Module):
    """A network whose answer is fixed logits, with what timm asks of a network."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012  timm reads an attribute
    num_classes, in_chans = 7, 3

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def value_and_gradient(value: torch.Tensor, logits: torch.Tensor) -> list[float]:
    return [value.item(), *torch.autograd.grad(value, logits)[0].flatten().tolist()]


def torchdistills(loss: nn.Module, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return loss({"head": {"output": student}}, {"head": {"output": teacher}}, labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_ce_and_kd_equal_torchdistills_loss(temperature):
    student, teacher, labels = normal(5, 7, seed=1).requires_grad_(), normal(5, 7, seed=2), torch.arange(5)
    theirs = torchdistills(KDLoss("head", "output", "head", "output", temperature=temperature, alpha=0.1), student, teacher, labels)
    ours = 0.1 * CrossEntropy()(outputs(student), None, batch(labels)) + 0.9 * kd(student, teacher, temperature)
    assert value_and_gradient(ours, student) == pytest.approx(value_and_gradient(theirs, student), rel=1e-5, abs=1e-7)


def test_torchdistill_forgets_the_factor_of_the_temperature_without_ce():
    student, teacher, labels = normal(5, 7, seed=1), normal(5, 7, seed=2), torch.arange(5)
    theirs = torchdistills(KDLoss("head", "output", "head", "output", temperature=4.0, alpha=0), student, teacher, labels)
    assert kd(student, teacher, 4.0).item() == pytest.approx(16 * theirs.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_equals_timms_loss(temperature):
    networks = {"student_model": Fixed(normal(5, 7, seed=1)), "teacher_model": Fixed(normal(5, 7, seed=2))}
    task = LogitDistillationTask(
        **networks, criterion=nn.CrossEntropyLoss(), temperature=temperature, device=torch.device("cpu"), dtype=torch.float32, verbose=False
    )
    student, teacher = (network.logits for network in networks.values())
    theirs = task(torch.zeros(5, 3, 1, 1), torch.arange(5))["kd_loss"]
    ours = kd(student, teacher.detach(), temperature)
    assert value_and_gradient(ours, student) == pytest.approx(value_and_gradient(theirs, student), rel=1e-5, abs=1e-7)


def test_standardised_kd_is_ls_kd_and_ignores_the_size_of_the_logits():
    student, teacher = outputs(normal(5, 7, seed=1)), outputs(normal(5, 7, seed=2))
    value = KD(temperature=2.0, standardise=True)(student, teacher, batch([0] * 5)).item()
    assert value == LogitStandardisedKD(temperature=2.0)(student, teacher, batch([0] * 5)).item()
    larger = KD(temperature=2.0, standardise=True)(outputs(30 * student.logits + 5), teacher, batch([0] * 5)).item()
    assert larger == pytest.approx(value, rel=1e-4)
    assert KD(temperature=2.0)(student, teacher, batch([0] * 5)).item() != pytest.approx(value, rel=1e-2)
