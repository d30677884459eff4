"""The random numbers against the published algorithm."""

import numpy as np
import pytest
from philox import philox, published_row

from distill.data.random_rows import NUM_COLUMNS, Block, ViewTables, draw_of, permutation, view_row, view_table


def test_philox_of_these_tests_gives_the_known_answer_of_random123():
    # kat_vectors of the Random123 library: philox4x64 10, counter 0, key 0
    assert philox((0, 0), 0) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


def test_view_table_begins_with_the_golden_numbers():
    assert view_table(7, 3, 5)[0, :2].tolist() == [0.4821286018761155, 0.7241355726248441]


@pytest.mark.parametrize("seed, view, sample_id", [(7, 3, 0), (0, 0, 1), (123456789, 250, 4)])
def test_a_row_holds_the_published_stream_from_the_samples_own_counter(seed, view, sample_id):
    assert view_table(seed, view, 5)[sample_id].tolist() == published_row(seed, view, sample_id)


@pytest.mark.parametrize("block", Block)
def test_each_block_has_a_stream_of_its_own(block):
    """Block b of view v is the stream v + b * 2**48: geometry keeps the numbers that it has always had."""
    assert view_table(7, 3, 5, block)[4].tolist() == published_row(7, 3 + block * 2**48, 4)


def test_blocks_are_numbered_for_ever():
    assert {block.name: block.value for block in Block} == {"GEOMETRY": 0, "COLOUR": 1, "AUTO_AUGMENT": 2, "ERASING": 3, "MIXING": 4}


def test_no_two_blocks_or_views_draw_the_same():
    rows = [view_row(7, view, 5, block) for view in range(3) for block in Block]
    assert len(np.unique(np.concatenate(rows))) == 3 * len(Block) * NUM_COLUMNS


@pytest.mark.parametrize("block", Block)
def test_what_samples_draw_is_the_same_with_and_without_tables(block):
    ids = np.array([17, 0, 49, 17])
    drawn = ViewTables(7, 3, 50).of(ids)(block)
    assert drawn.shape == (4, NUM_COLUMNS)
    assert np.array_equal(drawn, view_table(7, 3, 50, block)[ids])
    assert np.array_equal(drawn, np.concatenate([draw_of(7, 3, int(sample_id))(block) for sample_id in ids]))


def test_table_is_made_once_and_only_when_asked_for(monkeypatch):
    from distill.data import random_rows

    made = []
    monkeypatch.setattr(random_rows, "view_table", lambda seed, view, num, block: made.append(block) or view_table(seed, view, num, block))
    tables = ViewTables(7, 3, 50)
    draws = [tables.of(np.array([sample_id])) for sample_id in range(5)]
    assert made == []
    for draw in draws:
        draw(Block.GEOMETRY)
        draw(Block.MIXING)
    assert made == [Block.GEOMETRY, Block.MIXING]


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
