"""Random numbers of losses: a function of sample and view, and of nothing else."""

import numpy as np
import pytest
import torch
from scipy import stats

from distill.losses._keyed import keyed_bits, keyed_uniform


def splitmix64(state: int) -> int:
    """The finaliser with Python's own integers: Steele, Lea, Flood, 2014, figure 16 and the constants of its mix64 variant 13."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_bits_are_those_of_plain_python_integers():
    step, ids, views, stream = 0x9E3779B97F4A7C15, [0, 7, 2**40], [0, 3, 1], 12
    expected = [
        [
            splitmix64((splitmix64((splitmix64((sample * step + stream) % 2**64) + view * step) % 2**64) + column * step) % 2**64) >> 11
            for column in (1, 2)
        ]
        for sample, view in zip(ids, views, strict=True)
    ]
    assert keyed_bits(torch.tensor(ids), torch.tensor(views), 2, stream).tolist() == expected


def test_numbers_of_a_sample_do_not_depend_on_who_shares_its_batch():
    ids, view = torch.arange(10), torch.full((10,), 3)
    together = keyed_uniform(ids, view, 5)
    assert torch.equal(keyed_uniform(ids[[7, 2]], view[:2], 5), together[[7, 2]])
    assert torch.equal(keyed_uniform(ids, view, 3), together[:, :3])


@pytest.mark.parametrize("change", [{"view": 1}, {"stream": 1}, {"first": 1000}])
def test_another_view_stream_or_sample_gives_other_numbers(change):
    def numbers(first: int = 0, view: int = 0, stream: int = 0) -> torch.Tensor:
        return keyed_uniform(torch.arange(first, first + 100), torch.full((100,), view), 10, stream)

    plain, changed = numbers(), numbers(**change)
    assert not torch.isclose(plain, changed).any()
    assert abs(np.corrcoef(plain.flatten(), changed.flatten())[0, 1]) < 0.1


def test_numbers_are_uniform():
    numbers = keyed_uniform(torch.arange(500), torch.zeros(500, dtype=torch.int64), 40)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers.flatten().double().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(numbers[:, 0].double().numpy(), "uniform").pvalue > 1e-3  # over samples
    assert stats.kstest(numbers[0].double().numpy(), "uniform").pvalue > 1e-3  # within a sample


def test_no_generator_is_touched():
    before = torch.get_rng_state()
    keyed_uniform(torch.arange(3), torch.zeros(3, dtype=torch.int64), 4)
    assert torch.equal(torch.get_rng_state(), before)
