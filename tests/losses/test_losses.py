"""Every loss against values worked by hand, in every precision, and against its mistakes.

Compared once (November 2026) with torchdistill 1.1.5, which is no dependency, on seeded random logits [5, 7] and maps [5, 3 and 6, 4, 4]:
KDLoss(temperature=4, alpha=0.1) equals 0.1 * ce + 0.9 * kd to the printed digits (1.1752). With alpha=0 it leaves out T^2 as well (0.0642 against our
1.0278 = 16 * 0.0642). ATLoss(mode="code") equals our attention transfer (0.0393); mode="paper" sums the norms over positions and divides by the batch
(0.7884). timm's LogitDistillationTask has the same expression for KD, T^2 included.
"""

import math

import pytest
import torch

from distill.errors import RecipeError
from distill.losses.at import AttentionTransfer, attention
from distill.losses.ce import CrossEntropy
from distill.losses.fitnet import FitNet
from distill.losses.kd import KD, kd
from distill.structures import Batch, FeatureShape, ModelInfo, Outputs

STUDENT = torch.tensor([[0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]).log()  # logits whose softmax is what stands here
TEACHER = torch.tensor([[0.5, 0.25, 0.25], [0.6, 0.3, 0.1]]).log()


def batch(labels) -> Batch:
    labels = torch.as_tensor(labels)
    ids = torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels, ids, torch.zeros_like(ids))


def outputs(logits: torch.Tensor | None = None, **features: torch.Tensor) -> Outputs:
    return Outputs(torch.zeros(2, 3) if logits is None else logits, features)


def info(num_classes: int = 3, **shapes: FeatureShape) -> ModelInfo:
    return ModelInfo("net", num_classes, shapes)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Cross-entropy


def test_ce_by_hand():
    value = CrossEntropy()(outputs(STUDENT), None, batch([1, 0]))
    assert value.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-6)


def test_ce_with_smoothed_labels_by_hand():
    # Szegedy et al., 2016, section 7: q = 0.7 * onehot + 0.3 / 3, so 0.8 for the label and 0.1 for the others
    value = CrossEntropy(label_smoothing=0.3)(outputs(STUDENT), None, batch([1, 0]))
    first = -(0.8 * math.log(0.5) + 0.2 * math.log(0.25))
    second = -(0.8 * math.log(0.6) + 0.1 * math.log(0.3) + 0.1 * math.log(0.1))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_ce_takes_soft_labels():
    soft = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    value = CrossEntropy()(outputs(STUDENT), None, batch(soft))
    assert value.item() == pytest.approx(-(math.log(0.5) + 0.5 * math.log(0.6) + 0.5 * math.log(0.3)) / 2, rel=1e-6)


def test_ce_works_without_a_teacher():
    assert CrossEntropy.needs_teacher is False
    CrossEntropy().setup(info(), None)


@pytest.mark.parametrize("label_smoothing", [1, 1.5, -0.1, float("nan")])
def test_ce_refuses_a_smoothing_that_leaves_no_label(label_smoothing):
    with pytest.raises(RecipeError, match=f"label_smoothing must be at least 0 and below 1, got {label_smoothing}"):
        CrossEntropy(label_smoothing=label_smoothing)


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


# Zagoruyko, Komodakis, 2017: equation 2, with the mean of the authors' code in place of the norm


def test_attention_by_hand():
    # mean of squares over two channels: (1 + 17) / 2 = 9 and (7 + 17) / 2 = 12, scaled to length 15: 3/5 and 4/5
    feature_map = torch.tensor([1.0, 7.0, 17.0, 17.0]).sqrt().view(1, 2, 1, 2)
    assert attention(feature_map)[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_attention_runs_over_rows_and_then_columns():
    feature_map = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [2.0, 0.0]]]])  # [2, 1, 2, 2]
    assert attention(feature_map).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


def test_at_by_hand():
    # First sample: student (1, 0), teacher (1, 1) / sqrt 2, of different widths; second sample: both (0, 1).
    student = torch.tensor([[[[5.0, 0.0]]], [[[0.0, 3.0]]]])  # [2, 1, 1, 2]
    teacher = torch.tensor([[[[1.0, 2.0]], [[2.0, 1.0]]], [[[0.0, 4.0]], [[0.0, 1.0]]]])  # [2, 2, 1, 2]
    one = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 4  # mean over 2 samples and 2 places
    loss = AttentionTransfer(layers=["layer3"])
    assert loss(outputs(layer3=student), outputs(layer3=teacher), batch([0, 0])).item() == pytest.approx(one, rel=1e-5)
    both = AttentionTransfer(layers=["layer3", "layer4"])
    value = both(outputs(layer3=student, layer4=student), outputs(layer3=teacher, layer4=teacher), batch([0, 0]))
    assert value.item() == pytest.approx(2 * one, rel=1e-5)  # a sum over layers


def test_at_does_not_see_the_scale_of_a_map():
    student, teacher = normal(3, 4, 5, 5, seed=1), normal(3, 6, 5, 5, seed=2)
    loss = AttentionTransfer(layers=["layer1"])
    plain = loss(outputs(layer1=student), outputs(layer1=teacher), batch([0]))
    assert loss(outputs(layer1=7 * student), outputs(layer1=0.01 * teacher), batch([0])).item() == pytest.approx(plain.item(), rel=1e-4)


def test_attention_of_a_dead_map_is_zero_with_a_finite_gradient():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = (attention(dead) - attention(normal(2, 3, 4, 4))).square().mean()
    value.backward()
    assert value.item() == pytest.approx(1 / 16, rel=1e-5)  # a vector of length 1, its square averaged over 16 places
    assert dead.grad.isfinite().all()


def test_attention_gradient_is_right_in_double_precision():
    feature_map = normal(2, 3, 2, 3, dtype=torch.float64).requires_grad_()
    assert attention(feature_map).dtype == torch.float64
    assert torch.autograd.gradcheck(attention, feature_map)


def test_at_refuses_maps_of_different_sizes():
    with pytest.raises(RecipeError, match="layer2: the student's map is 8x4 and the teacher's 8x8"):
        AttentionTransfer(layers=["layer2"]).setup(info(layer2=FeatureShape(3, 8, 4)), info(layer2=FeatureShape(9, 8, 8)))
    AttentionTransfer(layers=["layer2"]).setup(info(layer2=FeatureShape(3, 8, 8)), info(layer2=FeatureShape(9, 8, 8)))


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_at_refuses_vectors(whose):
    shapes = {"student": FeatureShape(3, 8, 8), "teacher": FeatureShape(3, 8, 8)} | {whose: FeatureShape(3)}
    with pytest.raises(RecipeError, match=f"the {whose}'s 'pooled' is a vector"):
        AttentionTransfer(layers=["pooled"]).setup(info(pooled=shapes["student"]), info(pooled=shapes["teacher"]))


# Romero et al., 2015: equation 3, with the mean over every element in place of half the squared norm


def test_fitnet_of_vectors_by_hand():
    loss = FitNet(layers=["pooled"])
    loss.setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(1)))
    with torch.no_grad():
        loss.projectors[0].linear.weight.copy_(torch.tensor([[2.0, -1.0]]))
        loss.projectors[0].linear.bias.fill_(0.5)
    # 2 * 1 - 3 + 0.5 = -0.5 against 1.5, and 2 * 2 - 0 + 0.5 = 4.5 against 3.5: (4 + 1) / 2
    value = loss(outputs(pooled=torch.tensor([[1.0, 3.0], [2.0, 0.0]])), outputs(pooled=torch.tensor([[1.5], [3.5]])), batch([0, 0]))
    assert value.item() == pytest.approx(2.5, rel=1e-6)


def test_fitnet_of_maps_by_hand():
    loss = FitNet(layers=["layer3"])
    loss.setup(info(layer3=FeatureShape(1, 1, 2)), info(layer3=FeatureShape(2, 1, 2)))
    with torch.no_grad():
        loss.projectors[0].conv.weight.copy_(torch.tensor([1.0, -3.0]).view(2, 1, 1, 1))
    student = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(2, 1, 1, 2)
    # Normalised over batch and places, the two channels are (1, -1, 1, -1) and its negative. The teacher: zeros, but for one 3 where ours is 1.
    teacher = torch.zeros(2, 2, 1, 2)
    teacher[0, 0, 0, 0] = 3
    value = loss(outputs(layer3=student), outputs(layer3=teacher), batch([0, 0]))
    assert value.item() == pytest.approx((7 * 1 + 4) / 8, rel=1e-4)


def test_fitnet_sums_over_layers_and_trains_a_projector_for_each():
    shapes = {"layer3": FeatureShape(2, 4, 4), "pooled": FeatureShape(2)}
    wider = {"layer3": FeatureShape(5, 2, 2), "pooled": FeatureShape(6)}
    features = {"layer3": normal(3, 2, 4, 4), "pooled": normal(3, 2)}
    targets = {"layer3": normal(3, 5, 2, 2), "pooled": normal(3, 6)}
    loss = FitNet(layers=["layer3", "pooled"])
    loss.setup(info(**shapes), info(**wider))
    value = loss(outputs(**features), outputs(**targets), batch([0, 0, 0]))
    expected = sum((projector(features[name]) - targets[name]).pow(2).mean() for name, projector in zip(features, loss.projectors, strict=True))
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in loss.named_parameters() if "norm.weight" not in name)
    assert len(list(loss.parameters())) == 3 + 2  # convolution and norm's two; weight and bias


# All of them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_big_half_precision_maps_stay_finite_and_near_float32(dtype):
    # 100 squared is above half of the largest float16, 65504, for values of several standard deviations: sums of squares must be in float32.
    student, teacher = 100 * normal(4, 8, 6, 6, seed=1), 100 * normal(4, 12, 6, 6, seed=2)
    fitnet = FitNet(layers=["layer3"])
    fitnet.setup(info(layer3=FeatureShape(8, 6, 6)), info(layer3=FeatureShape(12, 6, 6)))
    for loss in (AttentionTransfer(layers=["layer3"]), fitnet):
        exact = loss(outputs(layer3=student), outputs(layer3=teacher), batch([0])).item()
        value = loss(outputs(layer3=student.to(dtype)), outputs(layer3=teacher.to(dtype)), batch([0]))
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert value.item() == pytest.approx(exact, rel=1e-2)


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
