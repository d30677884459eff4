"""Rows of bytes and back: each format by hand, its sizes, what it loses, and odd answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import kl_div

from distill.engine.answer_formats import Column, Full, Int8, TopK, logit_format, pack, unpack
from distill.engine.cache_files import row_bytes

FORMATS = ["fp64", "fp32", "bf16", "int8", "topk"]


def random_logits(num: int, num_classes: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(num, num_classes, generator=torch.Generator().manual_seed(5))


def there_and_back(name: str, logits: torch.Tensor, top_k: int = 16) -> torch.Tensor:
    kept_as = logit_format(name, logits.shape[1], top_k=top_k)
    return kept_as.decode(unpack(pack(kept_as.encode(logits), kept_as.columns()), kept_as.columns()))


def mean_kl(exact: torch.Tensor, kept: torch.Tensor, temperature: float) -> float:
    log_p, log_q = (values.double().div(temperature).log_softmax(dim=1) for values in (exact, kept))
    return float(kl_div(log_q, log_p, reduction="batchmean", log_target=True))


def test_ten_classes_in_bf16_take_31_bytes_and_the_top_16_of_1000_take_67():
    assert row_bytes(logit_format("bf16", 10).columns()) == 10 * 2 + 8 + 3 <= 32
    assert row_bytes(logit_format("topk", 1000).columns()) == 16 * (2 + 1) + 4 + 4 + 8 + 3 <= 72
    assert row_bytes(logit_format("bf16", 1000).columns()) == 2011
    assert row_bytes(logit_format("int8", 1000).columns()) == 1000 + 4 + 4 + 8 + 3


def test_full_precision_comes_back_bit_for_bit():
    logits = random_logits(7, 13)
    assert torch.equal(there_and_back("fp32", logits), logits)
    exact = logits.double() / 3
    assert torch.equal(there_and_back("fp64", exact), exact)
    half = logits.bfloat16()
    assert torch.equal(there_and_back("bf16", half.float()), half.float())
    assert there_and_back("bf16", half.float()).dtype == torch.float32
    assert torch.equal(there_and_back("bf16", torch.tensor([[1.0 + 2**-9, 1.0 + 3 * 2**-8]])), torch.tensor([[1.0, 1.015625]]))  # ties to even


def test_int8_by_hand():
    kept = Int8(4).encode(torch.tensor([[-1.0, 254.0, 0.4, 100.6], [2.0, 2.0, 2.0, 2.0]]))
    assert kept["codes"].tolist() == [[0, 255, 1, 102], [0, 0, 0, 0]]
    assert kept["lowest"].tolist() == [[-1.0], [2.0]]
    assert kept["step"].tolist() == [[1.0], [0.0]]
    assert Int8(4).decode(kept).tolist() == [[-1.0, 254.0, 0.0, 101.0], [2.0, 2.0, 2.0, 2.0]]


def test_topk_by_hand():
    """Shares 8, 4, 1, 1 of 14: the two last are left over, and share what they have together."""
    logits = torch.tensor([[0.0, math.log(8), math.log(4), 0.0]])
    kept = TopK(4, 2).encode(logits)
    assert kept["classes"].tolist() == [[1, 2]]
    assert kept["codes"].tolist() == [[0, 255]]
    assert kept["step"].item() == pytest.approx(math.log(2) / 255, rel=1e-6)
    assert kept["tail"].item() == pytest.approx(math.log(2 / 8), rel=1e-6)
    assert TopK(4, 2).decode(kept).exp().tolist()[0] == pytest.approx([1 / 14, 8 / 14, 4 / 14, 1 / 14], rel=1e-5)


def test_topk_shares_what_is_left_evenly_and_keeps_its_sum():
    logits = random_logits(50, 300)
    shares, kept = logits.double().softmax(dim=1), there_and_back("topk", logits).double().exp()
    _, largest = logits.topk(16, dim=1)
    assert kept.sum(dim=1).tolist() == pytest.approx([1] * 50, abs=1e-5)
    assert torch.equal(kept.gather(1, largest[:, :1])[:, 0], kept.amax(dim=1))  # one of those that are rounded to the same
    left = 1 - shares.gather(1, largest).sum(dim=1)
    others = kept.scatter(1, largest, -1)
    for row in range(50):
        values = others[row][others[row] >= 0]
        assert len(values) == 284
        assert values.max().item() == pytest.approx(values.min().item(), rel=1e-5)
        assert values.sum().item() == pytest.approx(left[row].item(), rel=0.02)
    assert ((kept.gather(1, largest) / shares.gather(1, largest)) - 1).abs().max() < 0.02


@pytest.mark.parametrize("num_classes", [2, 255, 256, 257, 65_536, 65_537, 70_000])
def test_topk_names_the_right_class_however_many_there_are(num_classes):
    logits = torch.zeros(3, num_classes)
    places = [0, num_classes // 2, num_classes - 1]
    logits[range(3), places] = 20.0
    assert there_and_back("topk", logits, top_k=2).argmax(dim=1).tolist() == places
    column = logit_format("topk", num_classes, top_k=2).columns()["classes"]
    assert column.num_bytes == 2 * (1 if num_classes <= 256 else 2 if num_classes <= 65_536 else 4)


@pytest.mark.parametrize("top_k", [5, 6, 100])
def test_topk_of_all_classes_is_the_whole_answer_in_255_steps(top_k):
    logits = random_logits(20, 5)
    expected, found = logits.log_softmax(dim=1), there_and_back("topk", logits, top_k=top_k)
    step = (logits.amax(dim=1) - logits.amin(dim=1)) / 255
    assert ((found - expected).abs().amax(dim=1) <= step).all()
    assert torch.equal(found.argsort(dim=1), expected.argsort(dim=1))


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [0.0, -1e4, 3e4])
def test_constant_rows_stay_without_preference(top_k, value):
    logits = torch.full((2, 4), value)
    assert there_and_back("topk", logits, top_k=top_k).exp().flatten().tolist() == pytest.approx([0.25] * 8, abs=1e-6)
    for name in ("fp32", "bf16", "int8"):
        assert there_and_back(name, logits).softmax(dim=1).flatten().tolist() == [0.25] * 8


def test_topk_with_ties_gives_one_of_the_tied_classes_what_it_has_and_the_others_their_mean():
    kept = there_and_back("topk", torch.tensor([[5.0, 5.0, 5.0, 5.0, 0.0]]), top_k=2).exp()[0]
    total = 4 * math.exp(5) + 1
    assert sorted(kept.tolist()) == pytest.approx([(2 * math.exp(5) + 1) / 3 / total] * 3 + [math.exp(5) / total] * 2, rel=1e-5)


BOUNDS = {  # (format, temperature) -> nats, for logits that spread by 3 over 100 classes
    ("fp32", 1): 1e-12,
    ("fp32", 2): 1e-12,
    ("fp32", 4): 1e-12,
    # bf16 rounds to 8 bits: a relative 2^-9 of logits below 16 is 2^-5 at most, and KL is half of the variance
    ("bf16", 1): 0.5 * 2**-10,
    ("bf16", 2): 0.5 * 2**-12,
    ("bf16", 4): 0.5 * 2**-14,
    # a step is a range of at most 24 by 255, so rounding is off by 0.05 at most
    ("int8", 1): 0.5 * 0.05**2,
    ("int8", 2): 0.5 * 0.025**2,
    ("int8", 4): 0.5 * 0.0125**2,
}


@pytest.mark.parametrize(("name", "temperature"), BOUNDS)
def test_divergence_of_kept_answers_is_within_what_rounding_allows(name, temperature):
    logits = random_logits(200, 100)
    assert logits.abs().max() < 16
    assert mean_kl(logits, there_and_back(name, logits), temperature) < BOUNDS[name, temperature]


def test_divergence_of_topk_grows_with_temperature_and_shrinks_with_k():
    logits = random_logits(200, 300)
    logits[range(200), range(200)] += 20  # sure of itself, as a trained teacher
    found = {temperature: mean_kl(logits, there_and_back("topk", logits), temperature) for temperature in (1, 2, 4)}
    assert found[1] < 1e-3 < found[4]
    assert found[1] < found[2] < found[4]
    assert mean_kl(logits, there_and_back("topk", logits, top_k=64), 4) < mean_kl(logits, there_and_back("topk", logits, top_k=8), 4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("odd", [[math.nan, 0, 0, 0], [math.inf, 0, 0, 0], [math.inf, math.inf, 0, 1], [-math.inf] * 4, [0, -math.inf, -math.inf, 1]])
def test_answer_that_is_not_finite_never_comes_back_finite(name, odd):
    """So the training stops, as it would with a live teacher; the rows beside it are not touched."""
    logits = torch.tensor([odd, [1.0, 2.0, 3.0, 4.0]])
    kept = there_and_back(name, logits, top_k=3)
    assert not kept[0].isfinite().all()
    assert kept[1].softmax(dim=0).tolist() == pytest.approx(torch.tensor([1.0, 2.0, 3.0, 4.0]).softmax(dim=0).tolist(), abs=0.01)


def test_impossible_classes_beyond_the_largest_k_stay_impossible():
    kept = there_and_back("topk", torch.tensor([[1.0, 2.0, -math.inf, -math.inf]]), top_k=2)
    assert kept.exp()[0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0, 0], rel=1e-5)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("num_classes", [2, 3, 10, 17, 300])
@pytest.mark.parametrize("num", [1, 2, 5])
def test_any_number_of_rows_of_any_width_is_packed_and_unpacked(name, num_classes, num):
    """Also one row of an odd width, in which a float begins at an odd byte."""
    logits = random_logits(num, num_classes)
    kept_as = logit_format(name, num_classes, top_k=3)
    columns = kept_as.columns() | {"feature.map": Column(torch.bfloat16, (3, 2, 2)), "feature.pooled": Column(torch.float32, (5,))}
    tensors = kept_as.encode(logits) | {"feature.map": torch.rand(num, 3, 2, 2).bfloat16(), "feature.pooled": torch.rand(num, 5)}
    rows = pack(tensors, columns)
    assert rows.dtype == torch.uint8
    assert rows.shape == (num, sum(column.num_bytes for column in columns.values()))
    found = unpack(rows, columns)
    for key, column in columns.items():
        assert found[key].dtype == column.dtype
        assert torch.equal(found[key].float(), tensors[key].to(column.dtype).float()), key


def test_pack_keeps_maps_in_channels_last_in_their_own_order():
    images = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    columns = {"map": Column(torch.float32, (2, 3, 4))}
    assert unpack(pack({"map": images}, columns), columns)["map"].flatten().tolist() == list(range(24))


def test_topk_of_float64_logits_and_full_float64():
    logits = random_logits(3, 20).double()
    assert there_and_back("topk", logits).dtype == torch.float32
    assert logit_format("fp64", 20).decode(Full(20, torch.float64).encode(logits)).dtype == torch.float64


def test_only_topk_lacks_logits():
    assert [name for name in FORMATS if not logit_format(name, 10).has_all_logits] == ["topk"]
