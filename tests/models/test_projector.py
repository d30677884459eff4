"""Projectors in every precision, layout and shape that a step may hand them."""

import pytest
import torch
import torch.nn.functional as F

from distill.errors import RecipeError
from distill.models.projector import Projector
from distill.structures import FeatureShape


def test_map_takes_the_teachers_width_and_size():
    projector = Projector(FeatureShape(4, 7, 7), FeatureShape(6, 3, 2))
    assert projector(torch.randn(2, 4, 7, 7)).shape == (2, 6, 3, 2)


def test_map_of_a_bigger_teacher_grows():
    assert Projector(FeatureShape(4, 2, 2), FeatureShape(6, 4, 4))(torch.randn(2, 4, 2, 2)).shape == (2, 6, 4, 4)


def test_map_is_convolved_without_bias_and_normalised():
    projector = Projector(FeatureShape(4, 5, 5), FeatureShape(6, 5, 5))
    feature = torch.randn(3, 4, 5, 5)
    mixed = torch.einsum("nchw,kc->nkhw", feature, projector.conv.weight[:, :, 0, 0])
    expected = (mixed - mixed.mean((0, 2, 3), keepdim=True)) / (mixed.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(projector(feature), expected, rtol=1e-4, atol=1e-5)
    assert projector.conv.bias is None


def test_vector_goes_through_one_linear_layer():
    projector = Projector(FeatureShape(4), FeatureShape(6))
    feature = torch.randn(3, 4)
    torch.testing.assert_close(projector(feature), F.linear(feature, *projector.parameters()))


@pytest.mark.parametrize("student, teacher", [(FeatureShape(8, 7, 7), FeatureShape(9)), (FeatureShape(9), FeatureShape(8, 7, 7))])
def test_map_and_vector_do_not_match_and_both_are_named(student, teacher):
    with pytest.raises(RecipeError, match="8 channels, 7x7") as caught:
        Projector(student, teacher)
    assert "a vector of 9 values" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape, size", [(FeatureShape(4, 4, 4), (2, 4, 4, 4)), (FeatureShape(4), (2, 4))])
def test_half_precision_enters_float32_parameters_while_autocast_is_off(dtype, shape, size):
    projector = Projector(shape, shape._replace(channels=6))
    feature = torch.randn(size).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        result = projector(feature)
    result.float().square().sum().backward()
    assert result.dtype == dtype
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in projector.parameters())
    reference = Projector(shape, shape._replace(channels=6))
    reference.load_state_dict(projector.state_dict())
    torch.testing.assert_close(result.float(), reference(feature.float()), rtol=0.05, atol=0.05)


def test_half_parameters_take_half_features():
    assert Projector(FeatureShape(4), FeatureShape(6)).bfloat16()(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16


def test_double_precision_stays_double():
    projector = Projector(FeatureShape(4, 4, 4), FeatureShape(6, 2, 2)).double()
    assert projector(torch.randn(2, 4, 4, 4).double()).dtype == torch.float64


def test_channels_last_features_give_the_same_result():
    projector = Projector(FeatureShape(4, 4, 4), FeatureShape(6, 2, 2))
    feature = torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(projector(feature.to(memory_format=torch.channels_last)), projector(feature))


def test_batch_of_one_on_a_map_of_one_place_is_projected_by_the_running_statistics():
    projector = Projector(FeatureShape(2, 1, 1), FeatureShape(3, 1, 1))
    feature = torch.ones(1, 2, 1, 1, requires_grad=True)
    trained = projector.train()(feature)
    trained.sum().backward()
    assert feature.grad.isfinite().all()
    assert torch.equal(trained, projector.eval()(feature))
