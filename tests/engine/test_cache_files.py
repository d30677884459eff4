"""The files of a teacher cache: valid for everyone's reader at any moment, torn and damaged rows found, several writers, files that are not ours."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distill.engine.answer_formats import Column, logit_format, pack, unpack
from distill.engine.cache_files import MANIFEST, CacheFolder, ViewFile, row_bytes
from distill.engine.fingerprints import seal
from distill.errors import DataError

IDENTITY = {"teacher's model": "resnet18", "view_seed": 0, "views": {"flip": 0.5, "size": 32}, "scale": [0.1, 1e-9]}


def folder(path: Path, columns=None, num_rows: int = 9, **changes) -> CacheFolder:
    found = CacheFolder(path, IDENTITY | changes, columns or logit_format("bf16", 5).columns(), num_rows)
    found.open()
    return found


def some_rows(columns, num: int, key: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(key)
    return generator.integers(0, 256, (num, row_bytes(columns) - 11)).astype(np.uint8), generator.integers(-(1 << 63), 1 << 63, num)


# ---------------------------------------------------------------- one file, read by others


@pytest.mark.parametrize("num_rows", [1, 3, 8])
@pytest.mark.parametrize(("name", "num_classes"), [("fp64", 3), ("fp32", 3), ("bf16", 3), ("int8", 5), ("topk", 7), ("topk", 300), ("topk", 70_000)])
def test_the_readers_of_safetensors_read_a_view_before_while_and_after_it_is_filled(tmp_path, name, num_classes, num_rows):
    kept_as = logit_format(name, num_classes, top_k=3)
    columns = kept_as.columns() | {"feature.pooled": Column(torch.bfloat16, (3,)), "feature.layer1": Column(torch.float32, (2, 3, 3))}
    cache = folder(tmp_path / "c", columns, num_rows)
    file = cache.view(4)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rows, num_classes, generator=generator)
    tensors = kept_as.encode(logits) | {"feature.pooled": torch.randn(num_rows, 3), "feature.layer1": torch.randn(num_rows, 2, 3, 3)}
    packed, hashes = pack(tensors, columns).numpy(), np.arange(num_rows) - 7
    for written in range(num_rows + 1):
        if written:
            file.write(np.array([written - 1]), packed[written - 1 : written], hashes[written - 1 : written])
        found = load_file(cache.view_path(4))
        assert set(found) == {*columns, "hash", "seal"}
        for key, column in columns.items():
            assert found[key].dtype == column.dtype
            assert found[key].shape == (num_rows, *column.shape)
            assert torch.equal(found[key][:written].float(), tensors[key].to(column.dtype)[:written].float())
        assert found["hash"].tolist() == [*hashes[:written].tolist(), *[0] * (num_rows - written)]
        assert found["seal"].any(dim=1).tolist() == [True] * written + [False] * (num_rows - written)
        assert torch.equal(kept_as.decode({key: value[:written] for key, value in found.items()}), kept_as.decode(kept_as.encode(logits[:written])))
    with safe_open(cache.view_path(4), "pt") as opened:
        assert opened.metadata()["view"] == "4"


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "topk"])
def test_size_of_a_view_is_its_header_and_its_rows(tmp_path, name):
    columns = logit_format(name, 10).columns()
    cache = folder(tmp_path / "c", columns, 1000)
    cache.view(0)
    size = cache.view_path(0).stat().st_size
    assert 0 < size - 1000 * row_bytes(columns) < 1000
    assert cache.view_path(0).stat().st_blocks * 512 >= size, "its space is reserved"


def test_rows_are_read_back_where_they_were_written_and_no_others_are_there(tmp_path):
    cache = folder(tmp_path / "c")
    file, (packed, hashes) = cache.view(0), some_rows(cache.columns, 3)
    file.write(np.array([7, 0, 4]), packed, hashes)
    for opened in (file, cache.view(0), cache.view(0, writes=False)):
        found, found_hashes, is_whole = opened.read(np.array([4, 1, 7, 0, 7]))
        assert is_whole.tolist() == [True, False, True, True, True]
        assert np.array_equal(found[is_whole], packed[[2, 0, 1, 0]])
        assert np.array_equal(found_hashes[is_whole], hashes[[2, 0, 1, 0]])
        assert opened.read(slice(None))[2].tolist() == [True, False, False, False, True, False, False, True, False]
        assert opened.num_written() == 3
        assert not opened.damaged(slice(None)).any()
    assert cache.num_written(0) == 3
    assert cache.num_written(1) == 0


def test_view_that_is_only_read_is_not_made_and_can_not_be_written(tmp_path):
    cache = folder(tmp_path / "c")
    assert cache.view(0, writes=False) is None
    assert not cache.view_path(0).exists()
    cache.view(0)
    packed, hashes = some_rows(cache.columns, 1)
    with pytest.raises(ValueError, match="read-only"):
        cache.view(0, writes=False).write(np.array([0]), packed, hashes)


def test_views_are_found_by_their_number_and_strangers_files_are_not_minded(tmp_path):
    cache = folder(tmp_path / "c")
    for view in (3, 0, 123_456):
        cache.view(view)
    for name in ("view_x.safetensors", "view_.safetensors", "view_00001.safetensors.bak", "notes.txt", ".view_00007.safetensors.tmp"):
        (cache.path / name).write_text("x")
    assert cache.views() == [0, 3, 123_456]


# ---------------------------------------------------------------- rows that are not whole


def test_every_single_flipped_bit_of_a_row_is_found(tmp_path):
    """All bits of one small row: answer, hash and seal."""
    cache = folder(tmp_path / "c", num_rows=3)
    packed, hashes = some_rows(cache.columns, 3)
    cache.view(0).write(np.arange(3), packed, hashes)
    path, content = cache.view_path(0), bytearray(cache.view_path(0).read_bytes())
    start, flipped = len(content) - 3 * cache.row_bytes, 0
    offset = start
    for num_bytes in (10, 8, 3):
        for place in range(offset + num_bytes, offset + 2 * num_bytes):  # of row 1
            for bit in range(8):
                content[place] ^= 1 << bit
                path.write_bytes(content)
                content[place] ^= 1 << bit
                file = cache.view(0, writes=False)
                assert file.read(slice(None))[2].tolist() == [True, False, True], (place - start, bit)
                assert file.damaged(slice(None)).tolist() == [False, True, False]
                flipped += 1
        offset += 3 * num_bytes
    assert flipped == 8 * 21


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_process_that_ends_between_two_writes_leaves_no_wrong_row(tmp_path, is_rewritten):
    """Whatever part of the row was the last to be written, as a whole or by half."""
    columns = logit_format("topk", 300, top_k=4).columns()
    (old, old_hash), (new, new_hash) = some_rows(columns, 1, 1), some_rows(columns, 1, 2)
    whole = np.concatenate([new, new_hash[:, None].view(np.uint8), seal(new, new_hash)], axis=1)[0]
    for written in range(len(whole)):
        cache = folder(tmp_path / str(written), columns, 2)
        file = cache.view(0)
        if is_rewritten:
            file.write(np.array([1]), old, old_hash)
        offset = 0
        for part in file._parts:  # in the order of `write`, byte by byte
            for place in range(part.shape[1]):
                if offset < written:
                    part[1, place] = whole[offset]
                offset += 1
        found, number, is_whole = cache.view(0).read(np.array([1]))
        is_old = is_rewritten and np.array_equal(found, old) and np.array_equal(number, old_hash)
        assert not is_whole[0] or is_old, written


def test_seal_is_written_after_all_else(tmp_path, monkeypatch):
    """The order in which `write` touches the file: a process that is killed at any place leaves what the test above looks at."""
    cache, order = folder(tmp_path / "c"), []
    file = cache.view(0)

    class Noting(np.ndarray):
        def __setitem__(self, key, value):
            order.append(self.shape[1])
            super().__setitem__(key, value)

    monkeypatch.setattr(file, "_parts", [part.view(Noting) for part in file._parts])
    file.write(np.array([2]), *some_rows(cache.columns, 1))
    assert order == [10, 8, 3]


# ---------------------------------------------------------------- files that are not whole, or not these


def spoilt(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-1]
    elif how == "longer":
        content += b"\0"
    elif how == "empty":
        content = bytearray()
    elif how == "five bytes":
        content = content[:5]
    elif how == "header cut":
        content = content[:100]
    elif how == "huge header":
        content[:8] = b"\xff" * 8
    elif how == "bit of the header":
        content[40] ^= 1
    elif how == "bit of the length":
        content[0] ^= 8
    elif how == "nested":
        content[8:4000] = b"[" * 3992
    elif how == "not text":
        content[8:30] = b"\xff" * 22
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["cut", "longer", "empty", "five bytes", "header cut", "huge header", "bit of the header", "bit of the length", "nested", "not text"]
)
def test_view_file_that_is_cut_short_or_foreign_is_an_error_that_names_it(tmp_path, how):
    cache = folder(tmp_path / "c")
    cache.view(0)
    spoilt(cache.view_path(0), how)
    for writes in (True, False):
        with pytest.raises(DataError, match=r"view_00000\.safetensors .*remove the file, and it is made anew"):
            cache.view(0, writes=writes)
    assert cache.num_written(0) == 0
    cache.view_path(0).unlink()
    assert cache.view(0).num_written() == 0


def test_file_of_another_view_under_this_name_is_an_error(tmp_path):
    cache = folder(tmp_path / "c")
    cache.view(0)
    shutil.copy(cache.view_path(0), cache.view_path(1))
    with pytest.raises(DataError, match=r"view_00001.* is of another view or another teacher"):
        cache.view(1)


def test_view_of_another_teacher_is_an_error_also_where_the_manifest_was_removed_or_replaced(tmp_path):
    """Its columns and its size are the same, so nothing but what the file says of itself tells them apart."""
    theirs = folder(tmp_path / "theirs", **{"teacher's model": "resnet34"})
    theirs.view(0).write(np.arange(9), *some_rows(theirs.columns, 9))
    (theirs.path / MANIFEST).unlink()
    with pytest.raises(DataError, match="another teacher"):
        folder(tmp_path / "theirs").view(0)


@pytest.mark.parametrize("value", [{"other": Column(torch.bfloat16, (5,))}, {"logits": Column(torch.float16, (5,))}])
def test_view_with_other_columns_of_the_same_size_is_an_error(tmp_path, value):
    cache = folder(tmp_path / "c")
    cache.view(0)
    with pytest.raises(DataError, match="not this view of this teacher cache"):
        CacheFolder(cache.path, IDENTITY, value, 9).view(0)


# ---------------------------------------------------------------- the folder


def test_folder_is_opened_again_by_the_same_identity_and_says_what_differs_else(tmp_path):
    folder(tmp_path / "c")
    folder(tmp_path / "c")
    for name, value in {"view_seed": 1, "views": {"flip": 0.5, "size": 64}, "teacher's model": "resnet34", "new": None}.items():
        if value is None:
            continue
        with pytest.raises(DataError, match="holds other answers than this run needs") as raised:
            folder(tmp_path / "c", **{name: value})
        assert f"\n  {name}: " in str(raised.value)
        assert str(raised.value).count("\n  ") == 1
        assert "leave out teacher.cache.folder" in str(raised.value)
    with pytest.raises(DataError, match="\n  torchvision: null there"):
        folder(tmp_path / "c", torchvision="0.29")
    with pytest.raises(DataError, match="another number of pictures"):
        folder(tmp_path / "c", num_rows=8)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 2, "identity": 5}', "\x00" * 100])
def test_manifest_that_is_not_ours_is_an_error(tmp_path, text):
    folder(tmp_path / "c")
    (tmp_path / "c" / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is not what a teacher cache writes"):
        folder(tmp_path / "c")


def test_manifest_names_the_identity_for_people(tmp_path):
    cache = folder(tmp_path / "c")
    found = json.loads((cache.path / MANIFEST).read_text())
    assert found["identity"] == IDENTITY
    assert found["num_rows"] == 9
    assert found["row_bytes"] == 5 * 2 + 11


def test_what_a_killed_process_left_while_it_made_a_view_is_used_up(tmp_path):
    """A whole view's space may be in it."""
    cache = folder(tmp_path / "c")
    (cache.path / ".view_00000.safetensors.tmp").write_bytes(bytes(10_000))
    cache.view(0)
    assert sorted(path.name for path in cache.path.iterdir()) == [".lock", MANIFEST, "view_00000.safetensors"]
    assert cache.view(0).num_written() == 0


def test_full_disk_while_a_view_is_made_is_an_oserror_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    cache = folder(tmp_path / "c")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        cache.view(0)
    assert sorted(path.name for path in cache.path.iterdir()) == [".lock", MANIFEST]


# ---------------------------------------------------------------- several processes


def answer(row: int, writer: int) -> tuple[np.ndarray, np.ndarray]:
    """What a writer keeps for a row: the same hash, and bytes that say whose they are."""
    return np.full((1, 10), writer, dtype=np.uint8), np.array([row], dtype=np.int64)


def fill(path: Path, writer: int, rows: list[int], begin, rounds: int = 1) -> None:
    cache = CacheFolder(path, IDENTITY, logit_format("bf16", 5).columns(), 400)
    begin.wait()
    cache.open()
    file = cache.view(0)
    for _ in range(rounds):
        for row in rows:
            file.write(np.array([row]), *answer(row, writer))


def start(path: Path, writer: int, rows: list[int], begin, rounds: int = 1) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=fill, args=(path, writer, rows, begin, rounds))
    process.start()
    return process


def test_two_processes_open_one_new_folder_at_once_and_fill_disjoint_rows(tmp_path):
    barrier = multiprocessing.get_context("fork").Barrier(2)
    writers = [start(tmp_path / "c", 1 + rank, list(range(rank, 400, 2)), barrier) for rank in range(2)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found, hashes, is_whole = folder(tmp_path / "c", num_rows=400).view(0).read(slice(None))
    assert is_whole.all()
    assert hashes.tolist() == list(range(400))
    assert found.tolist() == [[1 + row % 2] * 10 for row in range(400)]


def test_two_processes_that_write_the_same_rows_leave_the_answer_of_one_of_them_or_none(tmp_path):
    """Read all the time meanwhile: a row that counts as whole is never a mixture."""
    barrier = multiprocessing.get_context("fork").Barrier(2)
    cache = folder(tmp_path / "c", num_rows=400)
    file = cache.view(0)
    writers = [start(cache.path, 1 + rank, list(range(400))[:: 1 if rank else -1], barrier, 20) for rank in range(2)]
    looks = 0
    while any(writer.is_alive() for writer in writers):
        found, hashes, is_whole = file.read(slice(None))
        assert all(row.min() == row.max() and row[0] in (1, 2) for row in found[is_whole])
        assert (hashes[is_whole] == np.flatnonzero(is_whole)).all()
        looks += 1
    assert looks > 5
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert file.read(slice(None))[2].mean() > 0.9


def test_processes_killed_while_they_write_leave_no_wrong_row(tmp_path):
    cache, chance = folder(tmp_path / "c", num_rows=400), np.random.default_rng(0)
    file, whole, kill = cache.view(0), 0, 0
    while kill < 10 or whole <= 300:  # a busy machine writes fewer rows in the same time
        assert kill < 200
        barrier = multiprocessing.get_context("fork").Barrier(2)
        writer = start(cache.path, 1 + kill, chance.permutation(400).tolist(), barrier, 1000)
        barrier.wait()
        time.sleep(float(chance.uniform(0.002, 0.02)))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found, hashes, is_whole = file.read(slice(None))
        assert all(row.min() == row.max() and 1 <= row[0] <= 1 + kill for row in found[is_whole])
        assert (hashes[is_whole] == np.flatnonzero(is_whole)).all()
        whole, kill = int(is_whole.sum()), kill + 1


def test_view_file_says_what_it_takes(tmp_path):
    cache = folder(tmp_path / "c")
    file = cache.view(0)
    assert isinstance(file, ViewFile)
    assert file.num_rows == 9
    assert unpack(torch.from_numpy(file.read(np.array([0]))[0]), cache.columns)["logits"].tolist() == [[0.0] * 5]
