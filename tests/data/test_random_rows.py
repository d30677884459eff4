"""The random numbers against the published algorithm, written out again in plain integers."""

import numpy as np
import pytest

from distill.data.random_rows import NUM_COLUMNS, permutation, view_row, view_table

WORD = 2**64 - 1


def philox(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 of Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", for the counter (count, 0, 0, 0)."""
    words, keys = [count, 0, 0, 0], list(key)
    for _ in range(10):
        first, second = words[0] * 0xD2E7470EE14C6C93, words[2] * 0xCA5A826395121157
        words = [(second >> 64) ^ words[1] ^ keys[0], second & WORD, (first >> 64) ^ words[3] ^ keys[1], first & WORD]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & WORD, (keys[1] + 0xBB67AE8584CAA73B) & WORD]
    return words


def test_philox_of_this_file_gives_the_known_answer_of_random123():
    # kat_vectors of the Random123 library: philox4x64 10, counter 0, key 0
    assert philox((0, 0), 0) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


def test_view_table_begins_with_the_golden_numbers():
    assert view_table(7, 3, 5)[0, :2].tolist() == [0.4821286018761155, 0.7241355726248441]


@pytest.mark.parametrize("seed, view, sample_id", [(7, 3, 0), (0, 0, 1), (123456789, 250, 4)])
def test_a_row_holds_the_published_stream_from_the_samples_own_counter(seed, view, sample_id):
    first = 1 + sample_id * NUM_COLUMNS // 4  # NumPy counts up before it draws
    raw = [word for count in range(first, first + NUM_COLUMNS // 4) for word in philox((seed, view), count)]
    assert view_table(seed, view, 5)[sample_id].tolist() == [(word >> 11) / 2**53 for word in raw]


@pytest.mark.parametrize("view", [0, 3])
def test_row_is_the_line_of_the_table(view):
    table = view_table(7, view, 50)
    for sample_id in (0, 1, 17, 49):
        assert np.array_equal(view_row(7, view, sample_id), table[sample_id])


def test_table_of_more_samples_begins_with_the_table_of_fewer():
    assert np.array_equal(view_table(7, 3, 40)[:9], view_table(7, 3, 9))


def test_numbers_lie_in_the_unit_interval_and_fill_it():
    table = view_table(0, 0, 4000)
    assert table.min() >= 0
    assert table.max() < 1
    assert np.histogram(table, bins=10, range=(0, 1))[0] == pytest.approx([6400] * 10, rel=0.08)  # six standard deviations of 76


@pytest.mark.parametrize("other", [(8, 3), (7, 4)])
def test_views_depend_on_both_keys(other):
    assert not (view_table(7, 3, 20) == view_table(*other, 20)).any()


@pytest.mark.parametrize("num_samples", [1, 2, 997])
def test_permutation_holds_every_sample_once(num_samples):
    order = permutation(3, 5, num_samples)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(num_samples))


def test_permutation_depends_on_both_keys_and_on_nothing_else():
    order = permutation(3, 5, 100)
    np.random.default_rng(0).random()
    assert np.array_equal(order, permutation(3, 5, 100))
    assert not np.array_equal(order, permutation(4, 5, 100))
    assert not np.array_equal(order, permutation(3, 6, 100))


@pytest.mark.parametrize("seed, epoch", [(0, 0), (7, 3)])
def test_order_is_drawn_from_another_stream_than_the_views(seed, epoch):
    from_views = np.argsort(view_table(seed, epoch, 100 // NUM_COLUMNS + 1).ravel()[:100], kind="stable")
    assert not np.array_equal(permutation(seed, epoch, 100), from_views)


def test_order_sorts_the_stream_of_the_upper_half_of_the_keys():
    raw = [word for count in (1, 2) for word in philox((9, 2**63 + 4), count)]
    assert permutation(9, 4, 8).tolist() == sorted(range(8), key=lambda position: raw[position])
