"""Mixup and cutmix: pictures and labels by hand, shares against the Beta distribution, and who is mixed with whom."""

import numpy as np
import pytest
import torch
from scipy import stats

from distill.data.mixing import Mixing, partners
from distill.data.random_rows import NUM_COLUMNS, Block, view_table

COLUMNS = ["whether", "which", "share", "top", "left", "partner"]


def row(**columns: float) -> np.ndarray:
    numbers = np.full((1, NUM_COLUMNS), 0.5)
    for name, value in columns.items():
        numbers[0, COLUMNS.index(name)] = value
    return numbers


def rows(num: int) -> np.ndarray:
    return view_table(4, 2, num, Block.MIXING)


def grey(level: int, size: int, num: int = 1) -> torch.Tensor:
    return torch.full((num, 3, size, size), level, dtype=torch.uint8)


def test_mixup_by_hand():
    # Beta(1, 1) is even, so the share is the number itself: a quarter of the one and three quarters of the other.
    plan = Mixing(mixup=1.0).decide(row(share=0.25), 8)
    assert torch.equal(plan.pictures(grey(100, 8), grey(200, 8)), grey(175, 8))
    assert plan.labels(np.array([2]), np.array([0]), 4).tolist() == [[0.75, 0, 0.25, 0]]


def test_mixup_of_two_pictures_of_one_class_has_one_label():
    plan = Mixing(mixup=1.0).decide(row(share=0.25), 8)
    assert plan.labels(np.array([2]), np.array([2]), 4).tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(
    "place, box",
    [
        ({"top": 0.5, "left": 0.5}, (2, 6, 2, 6)),
        ({"top": 0.0, "left": 0.5}, (0, 2, 2, 6)),  # sticks out above
        ({"top": 0.5, "left": 0.99}, (2, 6, 5, 8)),  # around column 7: from 5 to 8, cut from 9
        ({"top": 0.99, "left": 0.0}, (5, 8, 0, 2)),
    ],
)
def test_cutmix_by_hand(place, box):
    """A share of 0.74 leaves 0.26 of 8x8: a square of 4 around the place."""
    plan = Mixing(cutmix=1.0).decide(row(share=0.74, **place), 8)
    top, bottom, left, right = box
    expected = grey(100, 8)
    expected[:, :, top:bottom, left:right] = 200
    assert torch.equal(plan.pictures(grey(100, 8), grey(200, 8)), expected)
    theirs = (bottom - top) * (right - left) / 64
    assert plan.labels(np.array([0]), np.array([1]), 3).tolist() == [[1 - theirs, theirs, 0]]


@pytest.mark.parametrize("size", [8, 24, 31, 32])
def test_labels_of_cutmix_are_the_shares_of_the_pixels(size):
    plan = Mixing(cutmix=1.0).decide(rows(300), size)
    theirs = plan.pictures(grey(0, size, 300), grey(255, size, 300))[:, 0]
    assert set(theirs.unique().tolist()) <= {0, 255}
    shares = (theirs == 255).flatten(1).sum(dim=1).double().numpy() / size**2
    labels = plan.labels(np.zeros(300, dtype=np.int64), np.ones(300, dtype=np.int64), 2)
    assert labels.dtype == np.float32
    assert np.array_equal(labels, np.stack([1 - shares, shares], axis=1).astype(np.float32))
    assert shares.max() > 0.6
    assert (shares == 0).mean() < 0.2


def test_labels_of_mixup_are_the_shares_of_the_picture():
    plan = Mixing(mixup=0.4).decide(rows(300), 4)
    shown = plan.pictures(grey(0, 4, 300), grey(255, 4, 300))[:, 0, 0, 0].numpy()
    labels = plan.labels(np.zeros(300, dtype=np.int64), np.ones(300, dtype=np.int64), 2)
    assert np.array_equal(shown, np.rint(255 * labels[:, 1]))


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.2), Mixing(cutmix=1.0), Mixing(0.8, 1.0), Mixing(0.8, 1.0, 0.5)])
def test_labels_sum_to_one(mixing):
    classes = np.arange(1000) % 7
    labels = mixing.decide(rows(1000), 32).labels(classes, np.roll(classes, 3) // 2, 7)
    assert (labels >= 0).all()
    assert np.array_equal(labels.astype(np.float64).sum(axis=1), np.ones(1000))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 8.0])
def test_shares_of_mixup_follow_the_beta_distribution(alpha):
    shares = Mixing(mixup=alpha).decide(rows(2000), 8).own / 4096
    expected = stats.beta(alpha, alpha)
    spread = shares + (np.random.default_rng(0).random(2000) - 0.5) / 4096  # undoes the rounding, which the test would take for lumps
    spread = 1 - np.abs(1 - np.abs(spread))  # what is rounded to 0 or 1 has half a place only
    assert stats.kstest(spread, lambda share: _rounded_cdf(expected, share)).pvalue > 0.01
    assert stats.kstest(shares, stats.beta(3 * alpha, 3 * alpha).cdf).pvalue < 1e-6


def _rounded_cdf(distribution, share):
    """Of the share rounded to 4096ths and spread evenly over its place again."""
    edges = np.concatenate([[0.0], (np.arange(4096) + 0.5) / 4096, [1.0]])
    return np.interp(share, edges, distribution.cdf(edges))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_uncut_boxes_of_cutmix_follow_the_beta_distribution(alpha):
    numbers = rows(2000)
    numbers[:, [COLUMNS.index("top"), COLUMNS.index("left")]] = 0.5  # in the middle none sticks out
    size = 10**7
    boxes = Mixing(cutmix=alpha).decide(numbers, size).boxes
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert stats.kstest(1 - (boxes[:, 2] / size) ** 2, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-300, 1e-12, 1e-4, 0.01, 100.0, 1e6, 1e12])
def test_shares_are_shares_for_any_alpha(alpha):
    numbers = np.concatenate([rows(200), row(share=0.0), row(share=1 - 2**-53)])
    for mixing in (Mixing(mixup=alpha), Mixing(cutmix=alpha)):
        plan = mixing.decide(numbers, 32)
        assert ((plan.own >= 0) & (plan.own <= 4096)).all()
        assert ((plan.boxes >= 0) & (plan.boxes <= 32)).all()
        assert (plan.boxes[:, :2] + plan.boxes[:, 2:] <= 32).all()


def test_small_alpha_leaves_pictures_nearly_alone_and_large_alpha_halves_them():
    small, large = (Mixing(mixup=alpha).decide(rows(1000), 8).own / 4096 for alpha in (0.01, 1e6))
    assert (np.minimum(small, 1 - small) < 0.01).mean() > 0.9
    assert small.mean() == pytest.approx(0.5, abs=0.08)  # as often the one as the other
    assert np.abs(large - 0.5).max() < 0.01


def test_place_of_the_box_is_drawn_evenly():
    mixing, size = Mixing(cutmix=1.0), 1000
    boxes = mixing.decide(rows(3000), size).boxes
    seen = boxes[boxes[:, 2] * boxes[:, 3] > 0]
    for axis in (0, 1):
        centres = seen[:, axis] + seen[:, axis + 2] / 2
        assert centres.mean() == pytest.approx(500, abs=25)
        assert (seen[:, axis] == 0).mean() == pytest.approx((seen[:, axis] + seen[:, axis + 2] == size).mean(), abs=0.05)


def kinds(mixing: Mixing, num: int = 4000) -> dict[str, float]:
    """The share of pictures that nothing is done to, and that each of the two is done to."""
    plan = mixing.decide(rows(num), 10**6)  # so large that no box vanishes or is whole
    untouched = (plan.boxes == 0).all(axis=1)
    whole = (plan.boxes[:, 2:] == 10**6).all(axis=1)
    return {"none": untouched.mean(), "mixup": whole.mean(), "cutmix": (~whole & ~untouched).mean()}


@pytest.mark.parametrize(
    "mixing, expected",
    [
        (Mixing(mixup=0.5), {"none": 0, "mixup": 1, "cutmix": 0}),
        (Mixing(cutmix=0.5), {"none": 0, "mixup": 0, "cutmix": 1}),
        (Mixing(0.5, 0.5), {"none": 0, "mixup": 0.5, "cutmix": 0.5}),
        (Mixing(0.5, 0.5, 0.3), {"none": 0.7, "mixup": 0.15, "cutmix": 0.15}),
        (Mixing(0.5, probability=0.3), {"none": 0.7, "mixup": 0.3, "cutmix": 0}),
        (Mixing(0.5, 0.5, 0.0), {"none": 1, "mixup": 0, "cutmix": 0}),
    ],
)
def test_each_has_its_share_of_the_pictures(mixing, expected):
    assert kinds(mixing) == pytest.approx(expected, abs=5 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("number, is_mixed", [(0.0, True), (0.29, True), (0.3, False), (0.9, False)])
def test_picture_is_mixed_where_its_number_is_below_the_probability(number, is_mixed):
    plan = Mixing(mixup=1.0, probability=0.3).decide(row(whether=number, share=0.25), 8)
    assert plan.boxes.tolist() == [[0, 0, 8, 8] if is_mixed else [0, 0, 0, 0]]


@pytest.mark.parametrize("number, is_cutmix", [(0.0, True), (0.49, True), (0.5, False), (0.9, False)])
def test_lower_half_is_cutmix_where_both_are_on(number, is_cutmix):
    plan = Mixing(1.0, 1.0).decide(row(which=number, share=0.74), 8)
    assert plan.boxes.tolist() == [[2, 2, 4, 4] if is_cutmix else [0, 0, 8, 8]]


def test_alphas_of_both_are_their_own():
    """With both on, mixup's shares come from mixup's alpha and the boxes from cutmix's."""
    numbers = rows(4000)
    plan = Mixing(mixup=0.1, cutmix=1e6).decide(numbers, 10**6)
    is_mixup = (plan.boxes[:, 2:] == 10**6).all(axis=1)
    shares = plan.own[is_mixup] / 4096
    assert (np.minimum(shares, 1 - shares) < 0.1).mean() > 0.5
    middle = ~is_mixup & (np.abs(numbers[:, 3:5] - 0.5) < 0.1).all(axis=1)
    assert plan.boxes[middle][:, 2] / 10**6 == pytest.approx(0.5**0.5, abs=0.01)


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_picture_that_is_not_mixed_stays_the_same_byte_for_byte_and_keeps_its_label(probability):
    images, others = (torch.randint(0, 256, (50, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    plan = Mixing(0.8, 1.0, probability).decide(rows(50), 9)
    shown, untouched = plan.pictures(images, others), rows(50)[:, 0] >= probability
    assert torch.equal(shown[untouched], images[untouched])
    labels = plan.labels(np.zeros(50, dtype=np.int64), np.ones(50, dtype=np.int64), 2)
    assert (labels[untouched] == [1, 0]).all()


def test_mixing_in_float32_loses_nothing_against_whole_numbers():
    images, others = (torch.randint(0, 256, (64, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    plan = Mixing(mixup=1.0).decide(rows(64), 9)
    own = plan.own[:, None, None, None]
    expected = np.rint((images.numpy().astype(np.int64) * own + others.numpy().astype(np.int64) * (4096 - own)) / 4096)
    together = plan.pictures(images, others)
    assert np.array_equal(together.numpy(), expected)
    for i in range(8):
        alone = Mixing(mixup=1.0).decide(rows(64)[i : i + 1], 9)
        assert torch.equal(alone.pictures(images[i : i + 1], others[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("num", [1, 2, 3, 1000])
def test_everybody_is_somebodys_partner(num):
    found = partners(rows(num))
    assert found.dtype == np.int64
    assert sorted(found) == list(range(num))


def test_partners_change_with_the_view_and_have_no_pattern():
    one, other = partners(rows(2000)), partners(view_table(4, 3, 2000, Block.MIXING))
    assert (one == other).sum() < 10
    assert (one == np.arange(2000)).sum() < 10  # one is expected that has itself
    assert abs(np.corrcoef(one, np.arange(2000))[0, 1]) < 5 / 2000**0.5


def test_partners_are_the_order_of_their_column():
    table = np.full((4, NUM_COLUMNS), 0.5)
    table[:, COLUMNS.index("partner")] = [0.3, 0.9, 0.1, 0.4]
    assert partners(table).tolist() == [2, 0, 3, 1]
