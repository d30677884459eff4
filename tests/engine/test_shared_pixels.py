"""Teacher and student see each batch normalised once, where both would normalise it alike; and nothing else changes."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.engine.network import Network
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

PICTURES = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAME = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}


class Kept(nn.Module):
    """Keeps what it is shown, and then writes into it if it is told to."""

    def __init__(self, writes: bool = False):
        super().__init__()
        self.writes = writes

    def forward(self, pixels: Tensor) -> Tensor:
        self.pixels, self.shown = weakref.ref(pixels), pixels.clone()
        return (pixels.mul_(2) if self.writes else pixels).mean(dim=(2, 3))


def pair(*, writes: bool = False, **others) -> tuple[Network, Network]:
    first, second = Network(Kept(writes), **SAME), Network(Kept(), **(SAME | others))
    first.hand_pixels_to(second)
    return first, second


def is_handed_on(first: Network, second: Network, pictures: Tensor = PICTURES) -> bool:
    """Whether the second does not normalise for itself; what it sees must be right in any case."""
    alone, done = Network(Kept(), **SAME), []
    alone.mean, alone.scale, alone.image_size = second.mean, second.scale, second.image_size
    first(PICTURES)
    normalise, second._normalise = second._normalise, lambda images: done.append(1) or normalise(images)
    second(pictures)
    second._normalise = normalise
    alone(pictures)
    assert torch.equal(second.model.shown, alone.model.shown)
    return not done


def test_second_network_is_given_what_the_first_normalised():
    assert is_handed_on(*pair())
    with torch.inference_mode():
        first, second = pair()
        assert not is_handed_on(first, second)


@pytest.mark.parametrize("others", [{"mean": (0.4, 0.5, 0.61)}, {"std": (0.2, 0.3, 0.41)}, {"image_size": 12}, {"channels_last": False}])
def test_network_that_normalises_otherwise_does_it_itself(others):
    assert not is_handed_on(*pair(**others))


def test_other_pictures_are_not_taken_for_those_that_were_handed_on():
    assert not is_handed_on(*pair(), PICTURES.clone())


def test_network_that_writes_into_what_it_sees_spoils_nothing():
    assert not is_handed_on(*pair(writes=True))


def test_what_was_handed_on_is_used_once_and_not_kept():
    first, second = pair()
    first(PICTURES)
    gc.collect()
    assert first.model.pixels() is not None
    second(PICTURES)
    gc.collect()
    assert first.model.pixels() is None
    first(PICTURES)
    first.hand_pixels_to(None)
    gc.collect()
    assert first.model.pixels() is None
    assert not is_handed_on(first, second)


def test_a_network_is_no_part_of_the_one_that_hands_on():
    first, second = pair()
    first(PICTURES)
    assert second.model not in list(first.modules())
    assert not first.state_dict()


@pytest.mark.parametrize(("overrides", "is_shared"), [([], True), (["teacher.mean=[0.1,0.2,0.3]"], False), (["teacher.image_size=48"], False)])
def test_recipe_decides_whether_a_run_shares(overrides, is_shared):
    source = Synthetic(num_train=256, num_val=8, num_test=8)
    recipe = load_recipe("r50_to_r18", ["teacher.model=resnet18", "teacher.weights=random", *overrides])
    made = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})
    assert made.teacher.network._next == ([made.distiller.student] if is_shared else [])
