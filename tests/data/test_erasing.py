"""Random erasing: the box by hand, how often, how large, in which colour."""

import numpy as np
import pytest
import torch

from distill.data.erasing import erase, inside_boxes
from distill.data.random_rows import NUM_COLUMNS, Block, view_table

CPU = torch.device("cpu")
FILL = (10, 20, 30)


def row(**columns: float) -> np.ndarray:
    numbers = np.full((1, NUM_COLUMNS), 0.5)
    for name, value in columns.items():
        numbers[0, ["whether", "top", "left", "area", "ratio"].index(name)] = value
    return numbers


def white(num: int, height: int, width: int) -> torch.Tensor:
    return torch.full((num, 3, height, width), 255, dtype=torch.uint8)


def test_box_by_hand():
    # A quarter of 8x8 at the middle of the ratios, which is 1, is 4x4; it has 5 places each way, of which 0.99 is the last and 0.1 the first.
    shown = erase(white(1, 8, 8), row(whether=0.0, top=0.99, left=0.1), FILL, probability=1.0, scale=(0.25, 0.25))
    expected = white(1, 8, 8)
    for channel, value in enumerate(FILL):
        expected[0, channel, 4:8, 0:4] = value
    assert torch.equal(shown, expected)


def test_wide_box_by_hand():
    # 100 pixels at the widest, 3.3333: 18.26 wide and 5.48 high.
    shown = erase(white(1, 20, 20), row(whether=0.0, top=0.0, left=0.0, ratio=1 - 1e-12), FILL, probability=1.0, scale=(0.25, 0.25))
    expected = white(1, 20, 20)
    expected[:, :, 0:5, 0:18] = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(shown, expected)


@pytest.mark.parametrize("probability, number, is_erased", [(0.3, 0.29, True), (0.3, 0.3, False), (1.0, 1 - 1e-12, True), (0.0, 0.0, False)])
def test_probability_is_the_share_of_pictures_erased(probability, number, is_erased):
    shown = erase(white(1, 8, 8), row(whether=number), FILL, probability=probability, scale=(0.1, 0.3))
    assert torch.equal(shown, white(1, 8, 8)) != is_erased


def test_as_many_pictures_as_the_probability_says_are_erased():
    shown = erase(white(4000, 8, 8), view_table(0, 0, 4000, Block.ERASING), FILL, probability=0.25, scale=(0.1, 0.3))
    assert (shown != 255).flatten(1).any(dim=1).sum().item() == pytest.approx(1000, abs=5 * 27)  # five standard deviations


def test_erased_share_of_the_area_fills_its_range():
    shown = erase(white(800, 64, 64), view_table(0, 0, 800, Block.ERASING), FILL, probability=1.0, scale=(0.1, 0.3))
    shares = (shown[:, 0] != 255).flatten(1).double().mean(dim=1)
    assert shares.min() > 0.1 - 0.013  # half a pixel on each side of the longest box
    assert shares.max() < 0.3 + 0.013
    assert shares.mean() == pytest.approx(0.2, abs=5 * 0.0577 / 800**0.5)
    assert np.histogram(shares, bins=4, range=(0.09, 0.31))[0].min() > 120


def test_every_place_is_erased_at_times_and_the_picture_never_altogether():
    shown = erase(white(2000, 10, 10), view_table(0, 0, 2000, Block.ERASING), FILL, probability=1.0, scale=(0.1, 0.3))
    gone = shown[:, 0] != 255
    assert gone.any(dim=0).all()
    assert not gone.flatten(1).all(dim=1).any()
    corners = [gone[:, top, left].sum().item() for top in (0, -1) for left in (0, -1)]
    assert corners == pytest.approx([np.mean(corners)] * 4, abs=50)


def test_erased_is_a_box_of_one_colour_and_the_rest_is_as_it_was():
    images = torch.randint(40, 256, (30, 3, 12, 15), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for image, shown in zip(images, erase(images, view_table(0, 0, 30, Block.ERASING), FILL, probability=1.0, scale=(0.1, 0.3)), strict=True):
        gone = (shown == torch.tensor(FILL).view(3, 1, 1)).all(dim=0)
        height, width = gone.any(dim=1).sum(), gone.any(dim=0).sum()
        assert gone.sum() == height * width > 0
        assert torch.equal(shown[:, ~gone], image[:, ~gone])
    assert torch.equal(images, before)


def test_each_column_decides_one_thing():
    rows = row(whether=0.4, top=0.2, left=0.2, area=0.5, ratio=0.3)
    how = {"probability": 0.7, "scale": (0.1, 0.4)}
    shown = erase(white(1, 30, 30), rows, FILL, **how)
    for column in range(NUM_COLUMNS):
        other = rows.copy()
        other[0, column] = (other[0, column] + 0.5) % 1.0
        assert torch.equal(erase(white(1, 30, 30), other, FILL, **how), shown) == (column > 4), column


def test_inside_boxes_by_hand():
    inside = inside_boxes(np.array([[1, 0, 2, 1], [0, 2, 1, 2], [1, 1, 0, 3]]), 3, 4, CPU)
    assert inside.shape == (3, 1, 3, 4)
    assert inside[:, 0].int().tolist() == [
        [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
        [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0] * 4] * 3,
    ]
