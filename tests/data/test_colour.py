"""Colour jitter: worked by hand on a few pixels, against torchvision, and the same bytes in any batch."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as F

from distill.data.colour import jitter
from distill.data.random_rows import NUM_COLUMNS, Block, view_table

COLUMNS = {"brightness": 0, "contrast": 1, "saturation": 2, "hue": 3}
EVERYTHING = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def picture(*pixels: tuple[int, int, int]) -> torch.Tensor:
    """[1, 3, 1, W] of pixels side by side."""
    return torch.tensor(pixels, dtype=torch.uint8).T[None, :, None]


def pixels_of(image: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in image[0, :, 0].T.tolist()]


def pictures(num: int = 40, height: int = 13, width: int = 17) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(num))


def changed(image: torch.Tensor, what: str, spread: float, number: float) -> torch.Tensor:
    """One operation; `number` in [0, 1) picks from its range."""
    rows = np.full((len(image), NUM_COLUMNS), 0.123)
    rows[:, COLUMNS[what]] = number
    return jitter(image, rows, **{what: spread})


@pytest.mark.parametrize(
    "what, spread, number, before, after",
    [
        ("brightness", 0.5, 0.75, [(100, 148, 200)], [(125, 185, 250)]),  # times 1.25
        ("brightness", 0.5, 0.0, [(100, 150, 200)], [(50, 75, 100)]),  # times 0.5, the least of 1 +- 0.5
        ("brightness", 1.0, 0.75, [(100, 180, 200)], [(150, 255, 255)]),  # times 1.5, cut at white
        ("contrast", 1.0, 0.25, [(100, 100, 100), (200, 200, 200)], [(125, 125, 125), (175, 175, 175)]),  # half as far from the mean, 150
        ("contrast", 1.0, 0.75, [(100, 100, 100), (200, 200, 200)], [(75, 75, 75), (225, 225, 225)]),
        ("contrast", 1.0, 0.0, [(255, 0, 0), (0, 0, 0)], [(38, 38, 38)] * 2),  # nothing but the mean: red's luma is 76, half of it 38
        ("contrast", 1.0, 0.0, [(76, 76, 76), (1, 1, 1)], [(39, 39, 39)] * 2),  # the mean, 38.5, rounded up
        ("saturation", 1.0, 0.0, [(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(76,) * 3, (150,) * 3, (29,) * 3]),  # 0.299, 0.587, 0.114 of 255
        ("saturation", 1.0, 0.25, [(255, 0, 0)], [(166, 38, 38)]),  # half way to (76, 76, 76): 165.5, to even
        ("saturation", 1.0, 0.75, [(0, 100, 0)], [(0, 120, 0)]),  # luma 59: 100 * 1.5 - 59 / 2 = 120.5, to even; the others cut at black
    ],
)
def test_blends_by_hand(what, spread, number, before, after):
    assert pixels_of(changed(picture(*before), what, spread, number)) == after


@pytest.mark.parametrize(
    "turn, after",
    [
        (1 / 6, [(255, 255, 0), (100, 200, 0), (10, 80, 10)]),
        (1 / 3, [(0, 255, 0), (0, 200, 100), (10, 80, 80)]),
        (1 / 2, [(0, 255, 255), (0, 100, 200), (10, 10, 80)]),
        (-1 / 6, [(255, 0, 255), (200, 0, 100), (80, 10, 10)]),
        (0, [(255, 0, 0), (200, 100, 0), (80, 80, 10)]),
    ],
)
def test_hue_by_hand(turn, after):
    """Red, orange, olive. A sixth of the circle takes red to yellow, a third to green, half to cyan, and a sixth back to magenta."""
    number = (turn / 0.5 + 1) / 2 if turn < 0.5 else 1 - 1e-9
    assert pixels_of(changed(picture((255, 0, 0), (200, 100, 0), (80, 80, 10)), "hue", 0.5, number)) == after


@pytest.mark.parametrize(
    "what, theirs, most",
    [("brightness", F.adjust_brightness, 1), ("contrast", F.adjust_contrast, 1), ("saturation", F.adjust_saturation, 2), ("hue", F.adjust_hue, 2)],
)
def test_operations_are_torchvisions_up_to_rounding(what, theirs, most):
    images, numbers, spread = pictures(), view_table(1, 0, 40)[:, 0], 0.5 if what == "hue" else 0.9
    rows = np.zeros((40, NUM_COLUMNS))
    rows[:, COLUMNS[what]] = numbers
    ours = jitter(images, rows, **{what: spread})
    factors = (0.0 if what == "hue" else 1.0) + (2 * numbers - 1) * spread
    expected = torch.stack([theirs(image, float(factor)) for image, factor in zip(images, factors, strict=True)])
    difference = (ours.int() - expected.int()).abs()
    assert difference.max() <= most
    assert difference.float().mean() < 0.6  # torchvision cuts off what is rounded here
    assert (ours != images).float().mean() > 0.5


def test_operations_come_in_the_order_of_their_names():
    images, rows = pictures(), view_table(1, 0, 40, Block.COLOUR)
    expected = images
    for what, spread in EVERYTHING.items():
        expected = jitter(expected, rows, **{what: spread})
    assert torch.equal(jitter(images, rows, **EVERYTHING), expected)
    assert not torch.equal(jitter(jitter(images, rows, saturation=0.4), rows, brightness=0.4), jitter(images, rows, brightness=0.4, saturation=0.4))


@pytest.mark.parametrize("height, width", [(13, 17), (1, 1), (32, 32), (7, 9)])
def test_any_batching_gives_the_same_bytes(height, width):
    images, rows = pictures(8, height, width), view_table(3, 1, 8, Block.COLOUR)
    together = jitter(images, rows, **EVERYTHING)
    assert together.dtype == torch.uint8
    for size in (1, 3, 7):
        chunks = [jitter(images[start : start + size], rows[start : start + size], **EVERYTHING) for start in range(0, 8, size)]
        assert torch.equal(torch.cat(chunks), together)
    layout = images.to(memory_format=torch.channels_last)
    assert torch.equal(jitter(layout, rows, **EVERYTHING), together)


def test_every_grey_stays_what_it_is_under_saturation_and_hue():
    greys = picture(*[(level,) * 3 for level in range(256)]).repeat(50, 1, 1, 1)
    assert torch.equal(jitter(greys, view_table(0, 0, 50, Block.COLOUR), saturation=1.0, hue=0.5), greys)


@pytest.mark.parametrize("what", COLUMNS)
def test_the_middle_of_a_range_changes_nothing(what):
    images = pictures()
    assert torch.equal(changed(images, what, 0.4, 0.5), images)


@pytest.mark.parametrize("what", COLUMNS)
def test_each_operation_looks_at_its_own_column_only(what):
    images, rows = pictures(4), view_table(0, 0, 4, Block.COLOUR)
    shown = jitter(images, rows, **{what: 0.4})
    for column in range(NUM_COLUMNS):
        other = rows.copy()
        other[:, column] = (other[:, column] + 0.5) % 1.0
        assert torch.equal(jitter(images, other, **{what: 0.4}), shown) == (column != COLUMNS[what]), column


def test_factors_fill_their_range_evenly():
    grey = torch.full((4000, 3, 1, 1), 100, dtype=torch.uint8)
    factors = jitter(grey, view_table(0, 0, 4000, Block.COLOUR), brightness=0.4)[:, 0, 0, 0].double() / 100
    assert factors.min() == pytest.approx(0.6, abs=0.01)
    assert factors.max() == pytest.approx(1.4, abs=0.01)
    assert np.histogram(factors, bins=8, range=(0.595, 1.405))[0] == pytest.approx([500] * 8, abs=6 * 21)  # six standard deviations


def test_pictures_are_left_alone():
    images, before = pictures(), pictures()
    jitter(images, view_table(0, 0, 40, Block.COLOUR), **EVERYTHING)
    assert torch.equal(images, before)
