"""Hashes of pictures and seals of rows: what differs is told apart, and every device and library agrees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from distill.engine.fingerprints import hash_pictures, seal

MASK = (1 << 64) - 1


def pictures(num: int, size: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def mixed(number: int) -> int:
    """splitmix64's finaliser in Python's own integers."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def multipliers(num: int) -> list[int]:
    return [int(number) | 1 for number in np.random.Philox(key=np.array([0x5EED_0F_4A5, 0], dtype=np.uint64)).random_raw(num)]


def words(content: bytes) -> list[int]:
    content += bytes(-len(content) % 8)
    return [int.from_bytes(content[start : start + 8], "little") for start in range(0, len(content), 8)]


def test_hash_is_what_integers_without_bounds_give():
    for row, found in zip(pictures(4), hash_pictures(pictures(4)).tolist(), strict=True):
        content = words(row.numpy().tobytes())
        expected = mixed(sum(mixed(word ^ key) for word, key in zip(content, multipliers(len(content)), strict=True)) & MASK)
        assert found & MASK == expected


def test_seal_is_what_integers_without_bounds_give():
    rows, hashes = np.arange(30, dtype=np.uint8).reshape(2, 15), np.array([-5, 1 << 62], dtype=np.int64)
    for row, number, found in zip(rows, hashes.tolist(), seal(rows, hashes), strict=True):
        content = [*words(row.tobytes()), number & MASK]
        keys, total = multipliers(2 * len(content)), 0
        for word, first, second in zip(content, keys[: len(content)], keys[len(content) :], strict=True):
            product = (word * first) & MASK
            total += ((product ^ (product >> 32)) * second) & MASK
        total &= MASK
        bits = (((total ^ (total >> 31)) * 0x9E3779B97F4A7C15) & MASK) >> 40
        assert int.from_bytes(found.tobytes(), "little") == (bits or 1)


def test_hash_depends_on_nothing_but_the_picture():
    images = pictures(8)
    expected = hash_pictures(images)
    assert expected.dtype == torch.int64
    assert len(set(expected.tolist())) == 8
    assert torch.equal(hash_pictures(images.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(torch.cat([hash_pictures(images[i : i + 1]) for i in range(8)]), expected)  # also where a picture begins at an odd byte
    assert torch.equal(hash_pictures(images[3:6]), expected[3:6])
    assert torch.equal(hash_pictures(images.flip(0)), expected.flip(0))
    even = pictures(4, 8)
    shifted = torch.cat([torch.zeros(3, dtype=torch.uint8), even.flatten()])[3:].view(even.shape)
    assert shifted.storage_offset() == 3
    assert torch.equal(hash_pictures(shifted), hash_pictures(even))


def test_every_changed_bit_of_a_picture_changes_its_hash():
    image = pictures(1)
    flat = image.flatten()
    changed = flat.repeat(8 * len(flat), 1)
    for index in range(len(changed)):
        changed[index, index // 8] ^= 1 << index % 8
    hashes = hash_pictures(changed.view(-1, *image.shape[1:])).tolist()
    assert len({*hashes, hash_pictures(image).item()}) == 8 * 75 + 1


def test_two_changed_upper_bits_of_a_picture_change_its_hash():
    """In a plain sum of products, the upper bits of any two words cancel."""
    image = pictures(1)
    uppers = list(range(7, 75, 8))
    changed = []
    for first, second in itertools.combinations(uppers, 2):
        copy = image.flatten().clone()
        copy[[first, second]] ^= 128
        changed.append(copy.view(image.shape[1:]))
    assert len({*hash_pictures(torch.stack(changed)).tolist(), hash_pictures(image).item()}) == len(changed) + 1


def test_moved_and_swapped_parts_change_the_hash():
    image = pictures(1, 8)
    others = torch.cat([image, image.roll(1, 3), image.roll(8, 3), image.flip(3), image.flip(2), image[:, [1, 0, 2]], image.transpose(2, 3)])
    others = torch.cat([others, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
    assert len(set(hash_pictures(others).tolist())) == 7  # rolled by 8 of 8 pixels it is itself


def test_every_changed_bit_of_a_row_or_its_hash_changes_the_seal():
    row, number = np.random.default_rng(0).integers(0, 256, (1, 20)).astype(np.uint8), np.array([123456789], dtype=np.int64)
    whole = np.concatenate([row, number[:, None].view(np.uint8)], axis=1)[0]
    changed = np.repeat(whole[None], 8 * 28, axis=0)
    for index in range(len(changed)):
        changed[index, index // 8] ^= 1 << index % 8
    seals = seal(np.ascontiguousarray(changed[:, :20]), np.ascontiguousarray(changed[:, 20:]).view(np.int64)[:, 0])
    assert (seals != seal(row, number)).any(axis=1).all()


def test_two_changed_upper_bits_of_a_row_change_the_seal():
    row, number = np.random.default_rng(0).integers(0, 256, (1, 80)).astype(np.uint8), np.array([5], dtype=np.int64)
    pairs = list(itertools.combinations(range(7, 80, 8), 2))
    changed = np.repeat(row, len(pairs), axis=0)
    for index, pair in enumerate(pairs):
        changed[index, list(pair)] ^= 128
    assert (seal(changed, number.repeat(len(pairs))) != seal(row, number)).any(axis=1).all()


def test_no_seal_is_all_zero_so_an_unwritten_row_is_never_whole():
    rows = np.random.default_rng(0).integers(0, 256, (300_000, 3)).astype(np.uint8)
    hashes = np.arange(len(rows), dtype=np.int64)
    seals = seal(rows, hashes)
    assert seals.any(axis=1).all()
    assert seals.dtype == np.uint8
    assert seal(np.zeros((1, 31), dtype=np.uint8), np.zeros(1, dtype=np.int64)).any()


@pytest.mark.parametrize("num_bytes", [1, 7, 8, 9, 2000])
def test_seal_of_a_row_is_the_same_among_others(num_bytes):
    rows = np.random.default_rng(1).integers(0, 256, (6, num_bytes)).astype(np.uint8)
    hashes = np.random.default_rng(2).integers(-(1 << 63), 1 << 63, 6)
    together = seal(rows, hashes)
    for index in range(6):
        assert np.array_equal(seal(rows[index : index + 1], hashes[index : index + 1])[0], together[index])
