"""FSP: matrices worked by hand, both ways round against each other, and against torchdistill."""

import pytest
import torch
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import FSPLoss

from distill.errors import RecipeError
from distill.losses.fsp import FSP, matched, squared_distance
from distill.structures import FeatureShape

SHAPES = {"layer1": FeatureShape(2, 4, 4), "layer2": FeatureShape(3, 2, 2), "layer3": FeatureShape(4, 1, 1)}


def ready(pairs: list[list[str]], **shapes: FeatureShape) -> FSP:
    """The loss without its projectors, so that maps are compared as they are."""
    loss = FSP(pairs=pairs)
    loss.setup(info(**shapes), info(**shapes))
    loss.projectors = torch.nn.ModuleList(torch.nn.Identity() for _ in loss.layers)
    return loss


def test_fsp_by_hand():
    # Equation 1: G_ij = 1 / P sum F1_i F2_j. Student: F1 = (1, 2), F2 = (3, 1) and (0, 2): G = 5/2 and 4/2. Teacher: F1 = (1, 0): G = 3/2 and 0.
    second = torch.tensor([[[[3.0, 1.0]], [[0.0, 2.0]]]])
    loss = ready([["layer1", "layer2"]], layer1=FeatureShape(1, 1, 2), layer2=FeatureShape(2, 1, 2))
    value = loss(
        outputs(layer1=torch.tensor([[[[1.0, 2.0]]]]), layer2=second), outputs(layer1=torch.tensor([[[[1.0, 0.0]]]]), layer2=second), batch([0])
    )
    assert value.item() == pytest.approx((1.0**2 + 2.0**2) / 2, rel=1e-6)  # equation 2, the mean in place of the sum


def test_the_larger_map_is_max_pooled():
    larger = torch.arange(16.0).view(1, 1, 4, 4)
    first, second = matched(larger, torch.ones(1, 2, 2, 2))
    assert first.tolist() == [[[5, 7, 13, 15]]]  # the largest of each quarter; the average would be 2.5, 4.5, 10.5, 12.5
    assert second.shape == (1, 2, 4)
    assert matched(torch.zeros(1, 1, 2, 2), larger)[1].tolist() == [[[5, 7, 13, 15]]]


@pytest.mark.parametrize(("channels", "places"), [((9, 8), 2), ((2, 3), 7), ((4, 4), 4)])
def test_the_short_way_gives_what_the_matrices_give(channels, places):
    ours = tuple(normal(3, width, places, seed=width, dtype=torch.float64) for width in channels)
    theirs = tuple(normal(3, width, places, seed=99 + width, dtype=torch.float64) for width in channels)
    expected = (torch.einsum("nip,njp->nij", *ours) - torch.einsum("nip,njp->nij", *theirs)).square().sum(dim=(1, 2))
    assert torch.allclose(squared_distance(ours, theirs), expected)


def test_nothing_large_cancels_where_the_networks_are_close():
    theirs = (1 + normal(2, 64, 4, seed=1), 1 + normal(2, 64, 4, seed=2))
    ours = tuple(each + 1e-4 * normal(2, 64, 4, seed=3) for each in theirs)
    exact = squared_distance(*(tuple(each.double() for each in pair) for pair in (ours, theirs)))
    assert torch.allclose(squared_distance(ours, theirs).double(), exact, rtol=1e-3)
    assert squared_distance(theirs, theirs).tolist() == [0, 0]


def test_fsp_has_torchdistills_matrices_with_the_square_that_its_norm_leaves_out():
    ours = {"layer1": normal(3, 2, 4, 4, seed=1).requires_grad_(), "layer2": normal(3, 3, 2, 2, seed=2), "layer3": normal(3, 4, 1, 1, seed=3)}
    theirs = {"layer1": normal(3, 2, 4, 4, seed=4), "layer2": normal(3, 3, 2, 2, seed=5), "layer3": normal(3, 4, 1, 1, seed=6)}
    value = ready([["layer1", "layer2"], ["layer2", "layer3"]], **SHAPES)(outputs(**ours), outputs(**theirs), batch([0] * 3))
    gram = FSPLoss.compute_fsp_matrix
    peer = sum(
        (gram(ours[a], ours[b]) - gram(theirs[a], theirs[b])).square().sum(dim=(1, 2)).mean() / (SHAPES[a].channels * SHAPES[b].channels)
        for a, b in (("layer1", "layer2"), ("layer2", "layer3"))
    )
    assert value.item() == pytest.approx(peer.item(), rel=1e-5)
    assert torch.allclose(*(torch.autograd.grad(one, ours["layer1"])[0] for one in (value, peer)), atol=1e-6)

    def torchdistills(scale: float) -> float:
        pair = {f"{who}_{order}": {"io": "output", "path": layer} for who in ("student", "teacher") for order, layer in
                (("first", "layer1"), ("second", "layer2"))}  # fmt: skip
        dicts = [{layer: {"output": each} for layer, each in maps.items()} for maps in (ours | {"layer1": scale * ours["layer1"]}, theirs)]
        dicts[1]["layer1"] = {"output": 0 * theirs["layer1"]}
        return FSPLoss({"pair": pair})(*dicts).item()

    assert torchdistills(10.0) == pytest.approx(10 * torchdistills(1.0), rel=1e-4)  # equation 2 has 100 times as much


def test_a_layer_in_two_pairs_has_one_projector_and_all_are_trained():
    loss = FSP()
    wider = {layer: FeatureShape(2 * shape.channels, *shape[1:]) for layer, shape in SHAPES.items()} | {"layer4": FeatureShape(9, 1, 1)}
    shapes = SHAPES | {"layer4": FeatureShape(5, 1, 1)}
    loss.setup(info(**shapes), info(**wider))
    assert loss.layers == ("layer1", "layer2", "layer3", "layer4")
    assert len(loss.projectors) == 4
    ours, theirs = ({layer: normal(3, *shape, seed=one) for layer, shape in each.items()} for one, each in enumerate((shapes, wider)))
    loss(outputs(**ours), outputs(**theirs), batch([0] * 3)).backward()
    assert all(projector.conv.weight.grad.abs().sum() > 0 for projector in loss.projectors)


def test_its_memory_is_that_of_the_smaller_side():
    loss = ready([["layer3", "layer4"]], layer3=FeatureShape(1024, 14, 14), layer4=FeatureShape(2048, 7, 7))
    assert loss.extra_bytes(128) == 4 * 6 * 49**2 * 128  # 7 MB, where one 1024 x 2048 matrix a sample has 1 GB


@pytest.mark.parametrize("pairs", [[], [["layer1"]], [["layer1", "layer1"]], [["layer1", "layer2", "layer3"]]])
def test_fsp_refuses_what_is_no_pair(pairs):
    with pytest.raises(RecipeError, match="pairs must be a list of pairs of two different layers"):
        FSP(pairs=pairs)


def test_fsp_refuses_vectors():
    with pytest.raises(RecipeError, match="the student's 'pooled' is a vector"):
        FSP(pairs=[["layer1", "pooled"]]).setup(info(pooled=FeatureShape(4), **SHAPES), info(pooled=FeatureShape(4), **SHAPES))
