"""The order of samples: the same global batches for any number of processes, and from any step on."""

import re

import numpy as np
import pytest

from distill.data.random_rows import permutation
from distill.data.sampler import StepSampler
from distill.errors import DataError, RecipeError


def steps_of(sampler: StepSampler, epoch: int, first_step: int = 0) -> list[list[np.ndarray]]:
    """The micro-batches of each step."""
    micro_batches = list(sampler.micro_batches(epoch, first_step))
    assert len(micro_batches) % sampler.accumulation == 0
    return [micro_batches[i : i + sampler.accumulation] for i in range(0, len(micro_batches), sampler.accumulation)]


@pytest.mark.parametrize("epoch", [0, 3])
def test_one_process_walks_the_epochs_permutation(epoch):
    batches = list(StepSampler(103, 16, seed=5).micro_batches(epoch))
    assert len(batches) == StepSampler(103, 16, seed=5).steps_per_epoch == 6
    assert np.array_equal(np.concatenate(batches), permutation(5, epoch, 103)[:96])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_of_the_processes_unite_to_the_batch_of_one(world_size, accumulation):
    alone = list(StepSampler(103, 16, seed=5).micro_batches(2))
    ranks = [steps_of(StepSampler(103, 16, seed=5, rank=r, world_size=world_size, accumulation=accumulation), 2) for r in range(world_size)]
    for step, expected in enumerate(alone):
        united = np.empty(16, dtype=np.int64)
        for rank in range(world_size):
            assert [len(part) for part in ranks[rank][step]] == [16 // world_size // accumulation] * accumulation
            united[rank::world_size] = np.concatenate(ranks[rank][step])
        assert np.array_equal(united, expected)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("epoch, first_step", [(0, 0), (0, 1), (4, 3), (4, 5), (4, 6)])
def test_any_step_continues_exactly(epoch, first_step, accumulation):
    sampler = StepSampler(103, 16, seed=5, rank=1, world_size=2, accumulation=accumulation)
    tail = list(sampler.micro_batches(epoch, first_step))
    expected = list(sampler.micro_batches(epoch))[first_step * accumulation :]
    assert len(tail) == (6 - first_step) * accumulation
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(tail, expected, strict=True))


def test_no_sample_comes_twice_in_an_epoch():
    seen = np.concatenate(list(StepSampler(40, 8, seed=0).micro_batches(0)))
    assert sorted(seen) == list(range(40))


@pytest.mark.parametrize("changed", [{"seed": 6}, {"epoch": 3}])
def test_order_changes_with_seed_and_epoch(changed):
    keys = {"seed": 5, "epoch": 2} | changed
    first = next(StepSampler(103, 16, seed=5).micro_batches(2))
    assert not np.array_equal(first, next(StepSampler(103, 16, seed=keys["seed"]).micro_batches(keys["epoch"])))


def test_batch_that_can_not_be_divided_names_the_nearest_that_can():
    with pytest.raises(RecipeError) as caught:
        StepSampler(1000, 50, seed=0, world_size=4, accumulation=2)
    message = str(caught.value)
    assert "data.global_batch_size=50" in message
    assert "4 process(es) with accumulation 2" in message
    assert "multiple of 8, such as 48, 56, 40" in message


@pytest.mark.parametrize("size, world_size, accumulation", [(50, 4, 2), (9, 2, 1), (100, 3, 1), (7, 1, 4)])
def test_suggested_batch_sizes_are_accepted(size, world_size, accumulation):
    with pytest.raises(RecipeError) as caught:
        StepSampler(1000, size, seed=0, world_size=world_size, accumulation=accumulation)
    suggested = [int(number) for number in re.findall(r"\d+", str(caught.value).split("such as")[1])]
    assert len(suggested) == 3
    for other in suggested:
        StepSampler(1000, other, seed=0, world_size=world_size, accumulation=accumulation)


def test_batch_far_below_the_number_of_processes_is_told_the_multiple():
    with pytest.raises(RecipeError, match=r"multiple of 64$"):
        StepSampler(1000, 2, seed=0, world_size=64)


@pytest.mark.parametrize("num_samples, world_size, suggested", [(30, 1, 15), (30, 4, 12), (1, 1, 1), (5, 4, 4)])
def test_too_few_pictures_suggest_a_batch_that_works(num_samples, world_size, suggested):
    with pytest.raises(DataError) as caught:
        StepSampler(num_samples, 64, seed=0, world_size=world_size)
    assert f"{num_samples} pictures, fewer than one batch of 64; set data.global_batch_size={suggested} or add pictures" in str(caught.value)
    StepSampler(num_samples, suggested, seed=0, world_size=world_size)


def test_fewer_pictures_than_processes_suggest_only_pictures():
    with pytest.raises(DataError, match="3 pictures, fewer than one batch of 8; add pictures, 4 at least"):
        StepSampler(3, 8, seed=0, world_size=4)


def test_exactly_one_batch_is_enough():
    assert StepSampler(64, 64, seed=0).steps_per_epoch == 1
