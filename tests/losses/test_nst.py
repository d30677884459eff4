"""NST: the discrepancy worked by hand, both ways against the kernel's own sums, and its memory."""

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.losses.nst import NeuronSelectivityTransfer, discrepancy, patterns
from distill.structures import FeatureShape


def kernel_sums(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy as the paper writes it, pair of channels by pair of channels."""
    mean = lambda one, other: torch.einsum("nip,njp->nij", one, other).square().mean(dim=(1, 2))  # noqa: E731
    return mean(ours, ours) + mean(theirs, theirs) - 2 * mean(ours, theirs)


def test_nst_by_hand():
    # Patterns: the student's (1, 0) and (0, 1), the teacher's one (0.6, 0.8). Kernel (a . b)^2:
    # ours with ours (1 + 0 + 0 + 1) / 4, theirs with theirs 1, ours with theirs (0.36 + 0.64) / 2
    student, teacher = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    loss = NeuronSelectivityTransfer(layers=["layer3"])
    one = 0.5 + 1 - 2 * 0.5
    assert loss(outputs(layer3=student), outputs(layer3=teacher), batch([0])).item() == pytest.approx(one, rel=1e-6)
    # A second sample in which both have the one pattern (0, 1)
    student, teacher = torch.cat([student, torch.tensor([[[[0.0, 1.0]], [[0.0, 9.0]]]])]), torch.cat([teacher, torch.tensor([[[[0.0, 4.0]]]])])
    assert loss(outputs(layer3=student), outputs(layer3=teacher), batch([0, 0])).item() == pytest.approx(one / 2, rel=1e-6)


@pytest.mark.parametrize(("channels", "size"), [((8, 6), (1, 3)), ((2, 3), (4, 4)), ((5, 5), (2, 2))])
def test_either_way_is_the_sum_over_pairs_of_channels(channels, size):
    ours, theirs = (patterns(normal(3, width, *size, seed=seed, dtype=torch.float64)) for seed, width in enumerate(channels))
    assert torch.allclose(discrepancy(ours, theirs), kernel_sums(ours, theirs))


def test_both_ways_have_one_gradient():
    for channels, size in (((8, 6), (1, 3)), ((2, 3), (4, 4))):
        student, teacher = (normal(3, width, *size, seed=seed, dtype=torch.float64).requires_grad_() for seed, width in enumerate(channels))
        values = [way(patterns(student), patterns(teacher)).sum() for way in (discrepancy, kernel_sums)]
        assert torch.allclose(*(torch.autograd.grad(value, student)[0] for value in values))


@pytest.mark.parametrize("shape", [(3, 8, 1, 3), (3, 2, 4, 4)])
def test_equal_maps_are_at_zero_and_scale_does_not_matter(shape):
    assert NeuronSelectivityTransfer.zero_at_identity
    feature_map = normal(*shape)
    assert discrepancy(patterns(feature_map), patterns(feature_map)).abs().max() < 1e-6
    assert discrepancy(patterns(100 * feature_map), patterns(0.01 * feature_map)).abs().max() < 1e-6


def test_the_order_of_the_channels_does_not_matter():
    student, teacher = normal(2, 5, 3, 3, seed=1), normal(2, 7, 3, 3, seed=2)
    value = discrepancy(patterns(student), patterns(teacher))
    assert torch.allclose(discrepancy(patterns(student.flip(1)), patterns(teacher.flip(1))), value, atol=1e-6)


def test_a_dead_channel_has_a_finite_gradient():
    student = normal(2, 6, 2, 2)
    student[:, 0] = 0
    student.requires_grad_()
    discrepancy(patterns(student), patterns(normal(2, 6, 2, 2, seed=2))).sum().backward()
    assert student.grad.isfinite().all()


def test_its_memory_is_that_of_the_smaller_side():
    shapes = {"layer1": (FeatureShape(64, 56, 56), FeatureShape(256, 56, 56)), "layer4": (FeatureShape(512, 7, 7), FeatureShape(2048, 7, 7))}
    loss = NeuronSelectivityTransfer(layers=list(shapes))
    loss.setup(*(info(**{layer: pair[index] for layer, pair in shapes.items()}) for index in (0, 1)))
    kernels = 64**2 + 64 * 256 + 256**2  # 3136 places a side would be 20 million
    assert loss.extra_bytes(10) == 3 * 4 * 10 * (kernels + 2 * 49**2)


def test_nst_pools_the_larger_map_and_counts_its_memory_so():
    student, teacher = normal(2, 3, 4, 2, seed=1), normal(2, 5, 2, 6, seed=2)
    loss, same = NeuronSelectivityTransfer(), NeuronSelectivityTransfer()
    loss.setup(info(layer4=FeatureShape(3, 4, 2)), info(layer4=FeatureShape(5, 2, 6)))
    same.setup(info(layer4=FeatureShape(3, 2, 2)), info(layer4=FeatureShape(5, 2, 2)))
    pooled = student.view(2, 3, 2, 2, 2).mean(3), teacher.view(2, 5, 2, 2, 3).mean(4)
    expected = same(outputs(layer4=pooled[0]), outputs(layer4=pooled[1]), batch([0, 0]))
    torch.testing.assert_close(loss(outputs(layer4=student), outputs(layer4=teacher), batch([0, 0])), expected)
    assert loss.extra_bytes(4) == same.extra_bytes(4)
