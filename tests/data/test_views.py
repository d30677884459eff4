"""Views: worked by hand, against torch's own resizing, and the same bytes in whatever company a picture travels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from philox import published_row

from distill.data import auto_augment, colour, erasing
from distill.data.auto_augment import MAX_OPERATIONS
from distill.data.random_rows import NUM_COLUMNS, Block, Draw, ViewTables, view_table
from distill.data.resizing import _resize_weights, random_boxes
from distill.data.sources.sample import Sample
from distill.data.views import _AREA, _FLIP, _LEFT, _RATIO, _TOP, Views, plain_view, resize_boxes

KINDS = {
    "none": Views(16, flip=0.5),
    "padded": Views(16, crop="padded", padding=3, flip=0.5),
    "random_resized": Views(16, crop="random_resized", flip=0.5),
    "no change": Views(16),
}


def pictures(num: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height * 1000 + width))


def row(**columns: float) -> np.ndarray:
    """One sample's numbers: 0.5 in each column that is not named."""
    numbers = np.full((1, NUM_COLUMNS), 0.5)
    for name, value in columns.items():
        numbers[0, {"top": _TOP, "left": _LEFT, "area": _AREA, "ratio": _RATIO, "flip": _FLIP}[name]] = value
    return numbers


def drawn(rows: np.ndarray) -> Draw:
    return lambda block: rows


def whole(num: int, height: int, width: int) -> np.ndarray:
    return np.array([[0, 0, height, width]] * num)


def as_picture(values: list[list[int]]) -> torch.Tensor:
    """[1, 3, H, W] with the three channels told apart by a constant."""
    return torch.stack([torch.tensor(values, dtype=torch.uint8) + channel * 100 for channel in range(3)])[None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(16, 16), (21, 30), (9, 5)])
def test_view_has_the_same_bytes_in_any_batching(kind, height, width):
    views, images, rows = KINDS[kind], pictures(7, height, width), view_table(3, 1, 7)
    together = views.apply(images, drawn(rows))
    assert together.shape == (7, 3, 16, 16)
    assert together.dtype == torch.uint8
    one_by_one = [views.apply(images[i : i + 1], drawn(rows[i : i + 1])) for i in range(7)]
    chunks = [views.apply(images[i : i + 3], drawn(rows[i : i + 3])) for i in range(0, 7, 3)]
    order = [4, 0, 6, 2, 1, 5, 3]
    assert torch.equal(torch.cat(one_by_one), together)
    assert torch.equal(torch.cat(chunks), together)
    assert torch.equal(views.apply(images[order], drawn(rows[order])), together[order])


@pytest.mark.parametrize("kind", ["none", "padded", "random_resized"])
def test_views_of_one_picture_differ_and_leave_the_picture_alone(kind):
    images, before = pictures(1, 16, 16).repeat(40, 1, 1, 1), pictures(1, 16, 16).repeat(40, 1, 1, 1)
    shown = {view.numpy().tobytes() for view in KINDS[kind].apply(images, drawn(view_table(0, 0, 40)))}
    assert len(shown) == 2 if kind == "none" else len(shown) > 20
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "height, width, size", [(28, 28, 32), (32, 32, 57), (37, 53, 16), (53, 37, 61), (100, 75, 7), (64, 64, 32), (5, 3, 2), (3, 2, 9)]
)
def test_resizing_is_within_one_grey_level_of_torch(height, width, size):
    images = pictures(2, height, width)
    ours = resize_boxes(images, whole(2, height, width), size, np.zeros(2, dtype=bool))
    theirs = F.interpolate(images.double(), (size, size), mode="bilinear", antialias=True)
    assert (ours.double() - theirs).abs().max() <= 1


@pytest.mark.parametrize("box", [(2, 5, 20, 11), (0, 0, 7, 29), (19, 4, 5, 5), (3, 3, 1, 9)])
def test_resized_box_sees_nothing_of_the_picture_around_it(box):
    top, left, height, width = box
    image = pictures(1, 24, 29)
    ours = resize_boxes(image, np.array([box]), 12, np.array([False]))
    cut = image[..., top : top + height, left : left + width]
    assert (ours.double() - F.interpolate(cut.double(), (12, 12), mode="bilinear", antialias=True)).abs().max() <= 1


def test_box_of_the_target_size_is_cut_out_unchanged():
    images = pictures(2, 20, 23)
    shown = resize_boxes(images, np.array([[4, 6, 9, 9], [0, 14, 9, 9]]), 9, np.zeros(2, dtype=bool))
    assert torch.equal(shown[0], images[0, :, 4:13, 6:15])
    assert torch.equal(shown[1], images[1, :, 0:9, 14:23])


def test_mirrored_resize_is_the_resize_mirrored():
    images = pictures(2, 20, 23)
    boxes = np.array([[1, 2, 13, 17], [0, 0, 20, 23]])
    plain = resize_boxes(images, boxes, 11, np.array([False, False]))
    assert torch.equal(resize_boxes(images, boxes, 11, np.array([True, False])), torch.stack([plain[0].flip(-1), plain[1]]))


def test_four_pixels_become_two_by_the_triangle_worked_by_hand():
    # Output 0 has its centre at 1, its triangle reaches 2 to each side: pixels at .5, 1.5, 2.5 count 3/4, 3/4, 1/4, so 3/7, 3/7, 1/7.
    image = torch.tensor([0, 0, 70, 210], dtype=torch.uint8).expand(1, 3, 4, 4)
    shown = resize_boxes(image, whole(1, 4, 4), 2, np.array([False]))
    assert shown[0].tolist() == [[[10, 120]] * 2] * 3  # 70 / 7 and (3 * 210 + 3 * 70 + 0) / 7


def test_constant_picture_stays_constant():
    for level in (0, 1, 128, 254, 255):
        images = torch.full((1, 3, 37, 23), level, dtype=torch.uint8)
        assert (resize_boxes(images, whole(1, 37, 23), 10, np.array([False])) == level).all()


@pytest.mark.parametrize("size", [7, 16, 32, 224])
@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 225, 1333])
def test_weights_are_whole_numbers_that_add_up_to_4096(length, size):
    weights = _resize_weights(np.array([0, 5]), np.array([length, length]), length + 7, size).astype(np.float64)
    assert (weights == np.rint(weights)).all()
    assert (weights.sum(axis=2) == 4096).all()
    assert (weights >= 0).all()
    assert not weights[0, :, length:].any()
    assert not weights[1, :, :5].any()


def test_resizing_in_float32_loses_nothing_against_whole_numbers():
    images, box = pictures(1, 61, 47), np.array([[3, 2, 55, 40]])
    down = _resize_weights(box[:, 0], box[:, 2], 61, 13)[0].astype(np.int64)
    across = _resize_weights(box[:, 1], box[:, 3], 47, 13)[0].astype(np.int64)
    rows = np.rint(np.einsum("oh,chw->cow", down, images[0].numpy().astype(np.int64)) / 256)  # 16 / 4096, halves to even
    expected = np.rint(np.einsum("pw,cow->cop", across, rows.astype(np.int64)) / 65536)
    assert np.array_equal(resize_boxes(images, box, 13, np.array([False]))[0].numpy(), expected)


NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"top": 0.0, "left": 0.99}, [[0, 0, 0], [2, 3, 0], [5, 6, 0]]),  # shown from one row above and one column to the right
        ({"top": 0.99, "left": 0.0}, [[0, 4, 5], [0, 7, 8], [0, 0, 0]]),
        ({"top": 0.4, "left": 0.6}, NINE),  # the middle third of the numbers: not moved
        ({"top": 0.4, "left": 0.4, "flip": 0.3}, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        ({"top": 0.0, "left": 0.99, "flip": 0.3}, [[0, 0, 0], [0, 3, 2], [0, 6, 5]]),  # cropped, then mirrored
    ],
)
def test_padded_crop_and_flip_by_hand(columns, expected):
    shown = Views(3, crop="padded", padding=1, flip=0.5).apply(as_picture(NINE), drawn(row(**columns)))
    inside = (torch.tensor(expected) > 0).to(torch.uint8)
    assert torch.equal(shown, as_picture(expected) * inside)


def test_every_offset_of_a_padded_crop_comes_up_as_often():
    image = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    image[..., 2, 2] = 255
    shown = Views(5, crop="padded", padding=2).apply(image.expand(5000, -1, -1, -1), drawn(view_table(1, 0, 5000)))
    counts = (shown[:, 0] > 0).sum(dim=0)
    assert counts.sum() == 5000  # with padding 2 the middle pixel never leaves
    assert counts.min() > 200 - 6 * 14  # 25 places, 200 each, standard deviation 14
    assert counts.max() < 200 + 6 * 14


@pytest.mark.parametrize("flip, number, is_mirrored", [(0.5, 0.49, True), (0.5, 0.5, False), (0.0, 0.0, False), (1.0, 0.999, True)])
def test_flip_is_the_share_of_pictures_mirrored(flip, number, is_mirrored):
    shown = Views(3, flip=flip).apply(as_picture(NINE), drawn(row(flip=number)))
    assert torch.equal(shown, as_picture(NINE).flip(-1) if is_mirrored else as_picture(NINE))


def test_random_box_by_hand():
    # A quarter of 8x8 at ratio 1 is 4x4, which has 5 places each way: 0.99 is the last of them, 0.1 the first.
    views = Views(4, crop="random_resized", scale=(0.25, 0.25), ratio=(1.0, 1.0))
    image = pictures(1, 8, 8)
    assert torch.equal(views.apply(image, drawn(row(top=0.99, left=0.1))), image[..., 4:8, 0:4])


SIZES = [(1, 1), (1, 50), (50, 1), (2, 3), (7, 7), (28, 28), (31, 200), (333, 500), (500, 333)]


@pytest.mark.parametrize("height, width", SIZES)
def test_random_boxes_lie_inside_the_picture(height, width):
    boxes = random_boxes(view_table(2, 0, 3000)[:, :4], (0.08, 1.0), (0.75, 1.3333), height, width)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


@pytest.mark.parametrize("height, width", SIZES)
def test_random_resized_view_of_any_size_has_the_target_size(height, width):
    shown = Views(8, crop="random_resized", scale=(0.08, 1.0), flip=0.5).apply(pictures(4, height, width), drawn(view_table(2, 0, 4)))
    assert shown.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("height, width", [(28, 28), (333, 500), (500, 333)])
def test_area_and_ratio_of_random_boxes_are_in_range_up_to_rounding(height, width):
    scale, ratio = (0.35, 0.9), (0.75, 1.3333)
    boxes = random_boxes(view_table(2, 0, 3000)[:, :4], scale, ratio, height, width)
    box_height, box_width = boxes[:, 2], boxes[:, 3]
    assert ((box_height - 0.5) * (box_width - 0.5) <= scale[1] * height * width).all()
    untrimmed = (box_height < height) & (box_width < width)
    assert untrimmed.mean() > 0.5
    tall, wide = box_height[untrimmed], box_width[untrimmed]
    assert ((tall + 0.5) * (wide + 0.5) >= scale[0] * height * width).all()
    assert ((wide + 0.5) / (tall - 0.5) >= ratio[0]).all()
    assert ((wide - 0.5) / (tall + 0.5) <= ratio[1]).all()


def test_random_boxes_spread_over_areas_ratios_and_places():
    boxes = random_boxes(view_table(2, 0, 5000)[:, :4], (0.1, 0.4), (0.75, 1.3333), 1000, 1000)
    area, ratio = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    assert area.mean() == pytest.approx(0.25, abs=0.006)  # uniform: 5 standard errors of 0.0866 / sqrt(5000)
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.012)  # as often wide as tall
    assert ratio.min() < 0.76
    assert ratio.max() > 1.32
    for start, length in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        assert (start / (1000 - length)).mean() == pytest.approx(0.5, abs=0.02)
        assert start.min() < 5
        assert (1000 - start - length).min() < 5


def test_columns_decide_one_thing_each():
    views, images, rows = Views(8, crop="random_resized", flip=0.5), pictures(1, 30, 40), view_table(0, 0, 1)
    shown = views.apply(images, drawn(rows))
    for column in range(NUM_COLUMNS):
        changed = rows.copy()
        changed[0, column] = (changed[0, column] + 0.5) % 1.0
        assert torch.equal(views.apply(images, drawn(changed)), shown) == (column > 4), column


@pytest.mark.parametrize(
    "height, width, rows, columns", [(4, 6, slice(0, 4), slice(1, 5)), (6, 4, slice(1, 5), slice(0, 4)), (4, 7, slice(0, 4), slice(1, 5))]
)
def test_plain_view_is_the_central_square(height, width, rows, columns):
    image = pictures(1, height, width)
    assert torch.equal(plain_view(image, 4), image[..., rows, columns])


def test_plain_view_of_the_right_size_is_the_picture():
    image = pictures(2, 9, 9)
    assert torch.equal(plain_view(image, 9), image)


def test_plain_view_resizes_the_central_square():
    image = pictures(1, 20, 31)
    theirs = F.interpolate(image[..., 5:25].double(), (8, 8), mode="bilinear", antialias=True)
    assert (plain_view(image, 8).double() - theirs).abs().max() <= 1


def test_sample_has_the_views_that_it_has_always_had():
    """Padded crop and flip of the embedded pictures, from the published numbers alone: two for the place, the fifth for the mirror."""
    train, views = Sample().train, Views(28, crop="padded", padding=2, flip=0.5)
    positions = np.array([0, 1, 500, 2024, len(train) - 1])
    ids = train.sample_ids[positions]
    shown = views.apply(train.pixels[positions], ViewTables(5, 9, int(train.sample_ids.max()) + 1).of(ids))
    directions = set()
    for picture, sample_id, view in zip(train.pixels[positions], ids, shown, strict=True):
        top, left, _, _, flip = published_row(5, 9, int(sample_id))[:5]
        padded = np.pad(picture.numpy(), ((0, 0), (2, 2), (2, 2)))
        cut = padded[:, int(top * 5) :, int(left * 5) :][:, :28, :28]
        assert np.array_equal(view.numpy(), cut[:, :, ::-1] if flip < 0.5 else cut)
        directions.add(flip < 0.5)
    assert directions == {True, False}


EVERYTHING = {
    "crop": "padded",
    "padding": 2,
    "flip": 0.5,
    "auto": "trivial",
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "erase": 0.5,
    "fill": (120, 110, 100),
}


def apply_to_many(images: torch.Tensor, **options) -> torch.Tensor:
    return Views(16, **options).apply(images, ViewTables(3, 1, len(images)).of(np.arange(len(images))))


@pytest.mark.parametrize("auto", ["none", "trivial", "rand"])
@pytest.mark.parametrize("crop", ["padded", "random_resized"])
@pytest.mark.parametrize("height, width", [(16, 16), (21, 30)])
def test_all_operations_together_give_the_same_bytes_in_any_batching(auto, crop, height, width):
    views, images, tables = Views(16, **EVERYTHING | {"auto": auto, "crop": crop}), pictures(24, height, width), ViewTables(3, 1, 24)
    together = views.apply(images, tables.of(np.arange(24)))
    for size in (1, 3, 7, 8):
        chunks = [np.arange(start, min(24, start + size)) for start in range(0, 24, size)]
        assert torch.equal(torch.cat([views.apply(images[chunk], tables.of(chunk)) for chunk in chunks]), together)
    order = np.random.default_rng(0).permutation(24)
    assert torch.equal(views.apply(images[order], tables.of(order)), together[order])
    assert len({view.numpy().tobytes() for view in together}) == 24


def test_operations_are_done_one_after_the_other_with_their_own_blocks():
    images, tables = pictures(30, 16, 16), ViewTables(3, 1, 30)
    expected = Views(16, crop="padded", padding=2, flip=0.5).apply(images, tables.of(np.arange(30)))
    fill = EVERYTHING["fill"]
    expected = torch.stack([auto_augment.trivial_augment(i, row, fill) for i, row in zip(expected, tables.table(Block.AUTO_AUGMENT), strict=True)])
    expected = colour.jitter(expected, tables.table(Block.COLOUR), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    expected = erasing.erase(expected, tables.table(Block.ERASING), fill, probability=0.5, scale=(0.02, 0.3333))
    assert torch.equal(apply_to_many(images, **EVERYTHING), expected)


@pytest.mark.parametrize(
    "options, block", [({"brightness": 0.4}, Block.COLOUR), ({"erase": 1.0}, Block.ERASING), ({"auto": "rand"}, Block.AUTO_AUGMENT)]
)
def test_an_operation_asks_for_its_own_block_only(options, block):
    asked = []

    def draw(wanted: Block) -> np.ndarray:
        asked.append(wanted)
        return view_table(0, 0, 4, wanted)

    Views(16, **options).apply(pictures(4, 16, 16), draw)
    assert asked == [Block.GEOMETRY, block]


def test_turning_an_operation_on_leaves_the_decisions_of_the_others_as_they_were():
    images = pictures(100, 16, 16)
    erased = apply_to_many(images, erase=0.5, fill=(7, 7, 7))
    boxes = (erased != images).any(dim=1)  # [N, S, S] where something was erased
    assert 30 < boxes.flatten(1).any(dim=1).sum() < 70
    for more in ({"brightness": 0.4, "hue": 0.1}, {"auto": "trivial"}, {"crop": "padded", "padding": 2, "flip": 0.5}):
        varied, both = (apply_to_many(images, fill=(7, 7, 7), **more, **erase) for erase in ({}, {"erase": 0.5}))
        assert (both.permute(0, 2, 3, 1)[boxes] == 7).all()
        assert torch.equal(both.permute(0, 2, 3, 1)[~boxes], varied.permute(0, 2, 3, 1)[~boxes])

    marked = torch.zeros(100, 3, 16, 16, dtype=torch.uint8)
    marked[..., 8, 7] = 200  # shows where a picture is moved and whether it is mirrored
    moved = apply_to_many(marked, crop="padded", padding=2, flip=0.5)
    brightened = apply_to_many(marked, crop="padded", padding=2, flip=0.5, brightness=0.4, saturation=0.2)
    assert torch.equal(moved > 0, brightened > 0)
    plain, turned = (apply_to_many(images, brightness=0.4, **more) for more in ({}, {"flip": 1.0}))
    assert torch.equal(plain.flip(-1), turned)  # the factors are the same


def test_more_operations_than_numbers_for_them_are_refused():
    Views(16, num_ops=MAX_OPERATIONS)
    with pytest.raises(ValueError, match="num_ops=6 is more than 5"):
        Views(16, num_ops=MAX_OPERATIONS + 1)
