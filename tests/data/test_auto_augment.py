"""TrivialAugment and RandAugment: each operation, strength and direction against torchvision, and how they are drawn."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from distill.data import auto_augment
from distill.data.auto_augment import MAX_OPERATIONS, rand_augment, trivial_augment
from distill.data.random_rows import NUM_COLUMNS, Block, view_table

FILL = (12, 200, 77)
WIDE, NARROW = v2.TrivialAugmentWide(), v2.RandAugment()
NAMES = list(WIDE._AUGMENTATION_SPACE)
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}


def picture(height: int = 24, width: int = 24) -> torch.Tensor:
    """Noise on a slope, so that every operation has something to change."""
    noise = torch.randint(0, 100, (3, height, width), generator=torch.Generator().manual_seed(height * 100 + width))
    return (noise + torch.arange(30, 30 + 100, 100 / width)[:width].int()).to(torch.uint8)


def row(*operations: tuple[str, int, float]) -> np.ndarray:
    """The numbers that pick these (name, strength out of 0 to 30, direction)."""
    numbers = np.full(NUM_COLUMNS, 0.999)
    for place, (name, strength, direction) in enumerate(operations):
        numbers[3 * place : 3 * place + 3] = (NAMES.index(name) + 0.5) / 14, (strength + 0.5) / 31, direction
    return numbers


def torchvisions(transform: v2.Transform, image: torch.Tensor, name: str, strength: int, sign: float) -> torch.Tensor:
    """What torchvision does for this strength out of 0 to 30. Its float32 ranges are rounded to what is meant: 16 pixels, not int(15.999999), and
    solarize from 68 on, not from 68.00001."""
    ranges, is_signed = transform._AUGMENTATION_SPACE[name]
    magnitudes = ranges(31, *image.shape[-2:])
    magnitude = 0.0 if magnitudes is None else round(float(magnitudes[strength]), 5)
    if name == "Solarize":
        assert magnitude * 255 == pytest.approx((30 - strength) * 8.5, abs=0.01)
        return v2.functional.solarize(image, (30 - strength) * 8.5)
    fill = {torch.Tensor: list(FILL)}
    return transform._apply_image_or_video_transform(image, name, magnitude * sign if is_signed else magnitude, v2.InterpolationMode.NEAREST, fill)


@pytest.mark.parametrize("strength", [0, 1, 7, 10, 15, 22, 30])
@pytest.mark.parametrize("name", NAMES)
def test_trivial_augment_does_what_torchvision_does(name, strength):
    for direction, sign in ((0.2, 1.0), (0.5, -1.0), (0.9, -1.0)):
        ours = trivial_augment(picture(), row((name, strength, direction)), FILL)
        assert torch.equal(ours, torchvisions(WIDE, picture(), name, strength, sign))


@pytest.mark.parametrize("height, width", [(24, 24), (32, 48)])
@pytest.mark.parametrize("strength", [0, 9, 19, 30])
@pytest.mark.parametrize("name", NAMES)
def test_rand_augment_has_torchvisions_ranges(name, strength, height, width):
    assert list(NARROW._AUGMENTATION_SPACE) == NAMES
    for direction, sign in ((0.2, 1.0), (0.9, -1.0)):
        ours = rand_augment(picture(height, width), row((name, 3, direction)), FILL, num_ops=1, magnitude=strength)
        assert torch.equal(ours, torchvisions(NARROW, picture(height, width), name, strength, sign))


def test_operations_with_two_directions_are_torchvisions():
    assert {name for name, (_, is_signed) in WIDE._AUGMENTATION_SPACE.items() if is_signed} == SIGNED


@pytest.mark.parametrize("num_ops", range(1, MAX_OPERATIONS + 1))
def test_rand_augment_goes_through_its_operations_in_turn(num_ops):
    chosen = [("Solarize", 0, 0.1), ("ShearY", 0, 0.7), ("Color", 0, 0.2), ("TranslateX", 0, 0.9), ("Posterize", 0, 0.1)]
    expected = picture()
    for name, _, direction in chosen[:num_ops]:
        expected = torchvisions(NARROW, expected, name, 11, 1.0 if direction < 0.5 else -1.0)
    assert torch.equal(rand_augment(picture(), row(*chosen), FILL, num_ops=num_ops, magnitude=11), expected)


def test_what_moves_in_has_the_colour_of_the_fill():
    shown = trivial_augment(picture(40, 40), row(("TranslateX", 30, 0.1)), FILL)  # 32 pixels to the right
    assert (shown[:, :, :32] == torch.tensor(FILL).view(3, 1, 1)).all()
    assert torch.equal(shown[:, :, 32:], picture(40, 40)[:, :, :8])


@pytest.fixture
def applied(monkeypatch) -> list[tuple[int, float, float]]:
    """(number of the operation, strength as a share, sign) of all that were picked, none of which is done."""
    found = []

    def spy(number: int):
        return lambda image, share, sign, fill, reach: found.append((number, share, sign)) or image

    monkeypatch.setattr(auto_augment, "_OPERATIONS", tuple(spy(number) for number in range(14)))
    return found


def assert_even(values: list, num_kinds: int) -> None:
    counts = np.unique(values, return_counts=True)[1]
    assert len(counts) == num_kinds
    expected = len(values) / num_kinds
    assert counts == pytest.approx([expected] * num_kinds, abs=5 * expected**0.5)


def test_trivial_augment_draws_operation_strength_and_direction_evenly(applied):
    for numbers in view_table(5, 0, 9000, Block.AUTO_AUGMENT):
        trivial_augment(picture(1, 1), numbers, FILL)
    numbers, shares, signs = (list(values) for values in zip(*applied, strict=True))
    assert_even(numbers, 14)
    assert_even(np.rint(np.array(shares) * 30), 31)
    assert_even(signs, 2)
    for one, other in ((numbers, shares), (numbers, signs), (shares, signs)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 9000**0.5


def test_rand_augment_draws_each_of_its_operations_evenly_and_apart(applied):
    table = view_table(5, 0, 3000, Block.AUTO_AUGMENT)
    for numbers in table:
        rand_augment(picture(1, 1), numbers, FILL, num_ops=5, magnitude=9)
    numbers, shares, _ = (np.array(values).reshape(3000, 5) for values in zip(*applied, strict=True))
    for place in range(5):
        assert_even(numbers[:, place], 14)
    assert (np.abs(np.corrcoef(numbers.T) - np.eye(5)) < 5 / 3000**0.5).all()
    assert shares == pytest.approx(9 / 30)
