"""A teacher whose answers are kept: what is given, what is asked, and what happens when files, pictures or disks are not as they should be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.engine.answer_formats import logit_format
from distill.engine.cache_files import CacheFolder
from distill.engine.network import Network
from distill.engine.teacher import Teacher
from distill.engine.teacher_cache import CachedTeacher, is_compared, layout_of
from distill.errors import DataError
from distill.models.zoo import create_model
from distill.structures import Batch, HostKeys

IDS = np.array([3, 4, 8, 10, 11, 12, 20, 21, 30, 31, 40, 41])  # of the training part, sorted, with gaps
LAYERS = ("layer2", "pooled")


def make_teacher(num_classes: int = 5, autocast: torch.dtype | None = None, image_size: int | None = None, precision: str = "fp32") -> Teacher:
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=num_classes, norm="batch")
    network = Network(model, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), layers=LAYERS, autocast_dtype=autocast, image_size=image_size)
    return Teacher(network.to(torch.float64) if precision == "fp64" else network)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return make_teacher()


def picture(sample: int, view: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1000 * view + sample))


def make_batch(samples: list[int] | np.ndarray, view: int = 0) -> Batch:
    samples = np.asarray(samples)
    ids, views = torch.from_numpy(samples), torch.full((len(samples),), view)
    return Batch(torch.stack([picture(int(sample), view) for sample in samples]), ids % 5, ids, views, HostKeys(samples, view))


class Heard(list):
    """What was said."""

    def __call__(self, text: str) -> None:
        self.append(text)


def make_cached(teacher: Teacher, path: Path, name: str = "fp32", features=(), say=None, **options) -> CachedTeacher:
    logits = logit_format(name, teacher.network.model.fc.out_features, top_k=3)
    pictures = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    layout = layout_of(teacher, logits, features, pictures, None if name in ("fp32", "fp64") else torch.bfloat16)
    folder = CacheFolder(path, {"teacher's model": "resnet18"}, layout.columns, len(IDS))
    folder.open()
    return CachedTeacher(teacher, folder, layout, IDS, say=say if say is not None else pytest.fail, **options)


def flip_byte(path: Path, from_end: int) -> None:
    content = bytearray(path.read_bytes())
    content[-from_end] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- what is given


@pytest.mark.parametrize("features", [(), ("pooled",), ("layer2", "pooled")])
def test_kept_and_first_answers_are_the_live_teachers_bit_for_bit_in_fp32(teacher, tmp_path, features):
    live, first = teacher(make_batch(IDS)), make_cached(teacher, tmp_path / "c", features=features)
    again = make_cached(teacher, tmp_path / "c", features=features)
    for outputs in (first(make_batch(IDS)), first(make_batch(IDS)), again(make_batch(IDS))):
        assert torch.equal(outputs.logits, live.logits)
        assert set(outputs.features) == set(features)
        for name in features:
            assert torch.equal(outputs.features[name], live.features[name])
            assert outputs.features[name].dtype == live.features[name].dtype
        assert outputs.head.weight is live.head.weight
        assert outputs.head.bias is live.head.bias
        assert not outputs.logits.requires_grad
    assert (first.num_asked, first.num_read) == (12, 12)
    assert (again.num_asked, again.num_read) == (0, 12)


@pytest.mark.parametrize("name", ["bf16", "int8", "topk"])
def test_run_that_fills_and_run_that_reads_see_the_same_numbers(teacher, tmp_path, name):
    cached = make_cached(teacher, tmp_path / "c", name, features=("pooled",))
    first, again = cached(make_batch(IDS)), make_cached(teacher, tmp_path / "c", name, features=("pooled",))(make_batch(IDS))
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.features["pooled"], again.features["pooled"])
    assert not torch.equal(first.logits, teacher(make_batch(IDS)).logits)
    assert first.logits.dtype == torch.float32
    assert first.features["pooled"].dtype == torch.float32


def test_bf16_is_exact_where_the_teacher_computes_in_bf16(tmp_path):
    teacher = make_teacher(autocast=torch.bfloat16)
    cached = make_cached(teacher, tmp_path / "c", "bf16", features=("pooled", "layer2"))
    cached(make_batch(IDS))
    live, kept = teacher(make_batch(IDS)), cached(make_batch(IDS))
    assert cached.num_read == 12
    assert torch.equal(kept.logits, live.logits)
    assert kept.features["layer2"].dtype == live.features["layer2"].dtype == torch.bfloat16
    assert torch.equal(kept.features["layer2"], live.features["layer2"])


def test_float64_is_kept_in_full(tmp_path):
    teacher = make_teacher(precision="fp64")
    cached = make_cached(teacher, tmp_path / "c", "fp64", features=("pooled",))
    cached(make_batch(IDS))
    live, kept = teacher(make_batch(IDS)), cached(make_batch(IDS))
    assert kept.logits.dtype == torch.float64
    assert torch.equal(kept.logits, live.logits)
    assert torch.equal(kept.features["pooled"], live.features["pooled"])


def test_teacher_with_an_image_size_of_its_own_keeps_what_it_says_at_that_size(tmp_path):
    teacher = make_teacher(image_size=24)
    cached = make_cached(teacher, tmp_path / "c", features=("layer2",))
    cached(make_batch(IDS))
    kept, live = cached(make_batch(IDS)), teacher(make_batch(IDS))
    assert cached.num_read == 12
    assert torch.equal(kept.logits, live.logits)
    assert torch.equal(kept.features["layer2"], live.features["layer2"])
    assert not torch.equal(live.logits, make_teacher()(make_batch(IDS)).logits)


def test_kept_rows_come_back_in_the_order_of_the_batch(teacher, tmp_path):
    cached = make_cached(teacher, tmp_path / "c")
    first = dict(zip(IDS.tolist(), cached(make_batch(IDS)).logits, strict=True))
    order = [40, 3, 31, 8, 8, 21]
    for outputs in (cached(make_batch(order)), make_cached(teacher, tmp_path / "c")(make_batch(order))):
        assert torch.equal(outputs.logits, torch.stack([first[sample] for sample in order]))


@pytest.mark.parametrize("name", ["fp32", "int8", "topk"])
@pytest.mark.parametrize("there", [[20], [41, 3, 12], IDS[1:].tolist()])
def test_of_a_batch_that_is_partly_there_only_the_rest_is_asked_and_all_are_in_order(teacher, tmp_path, there, name):
    """Kept answers are marked by being wrong: those of pictures turned upside down."""
    filling = make_cached(teacher, tmp_path / "c", name)
    marked = make_batch(there)
    marked = marked._replace(images=marked.images.flip(2))
    expected = dict(zip(there, filling(marked).logits, strict=True))
    missing = [sample for sample in IDS.tolist() if sample not in there]
    cached, order = make_cached(teacher, tmp_path / "c", name, features=()), np.random.default_rng(3).permutation(IDS).tolist()
    asked = make_cached(teacher, tmp_path / "other", name)(make_batch([sample for sample in order if sample in missing]))
    expected |= dict(zip([sample for sample in order if sample in missing], asked.logits, strict=True))
    found = cached(make_batch(order))
    assert torch.equal(found.logits, torch.stack([expected[sample] for sample in order]))
    assert (cached.num_asked, cached.num_read) == (len(missing), len(there))
    assert torch.equal(cached(make_batch(order)).logits, found.logits)
    assert cached.num_asked == len(missing)


def test_batches_of_one_picture(teacher, tmp_path):
    for name in ("fp32", "bf16", "int8", "topk"):
        cached = make_cached(teacher, tmp_path / name, name)
        first = [cached(make_batch([sample])).logits for sample in IDS]
        again = make_cached(teacher, tmp_path / name, name)
        assert torch.equal(torch.cat([again(make_batch([sample])).logits for sample in IDS]), torch.cat(first))
        assert again.num_asked == 0


@pytest.mark.parametrize("most_in_memory", [0, 1 << 30])
def test_views_are_kept_apart_whether_in_memory_or_in_the_map(teacher, tmp_path, most_in_memory):
    cached = make_cached(teacher, tmp_path / "c", most_in_memory=most_in_memory)
    live = {view: cached(make_batch(IDS, view)).logits for view in (0, 5)}
    assert not torch.equal(live[0], live[5])
    for view in (0, 5, 0):
        assert torch.equal(cached(make_batch(IDS, view)).logits, live[view])
    assert (cached.num_asked, cached.num_read) == (24, 36)
    assert cached.folder.views() == [0, 5]
    assert cached.folder.num_written(5) == 12
    again = make_cached(teacher, tmp_path / "c", most_in_memory=most_in_memory)
    assert torch.equal(again(make_batch([8], 5)).logits, live[5][2:3])
    assert (again._shelf.in_memory is None) == (most_in_memory == 0)


def test_each_picture_of_each_view_is_asked_for_exactly_once_by_all_runs_together(teacher, tmp_path):
    calls = []

    class Counting(Teacher):
        def __call__(self, batch):
            calls.extend((int(sample), int(view)) for sample, view in zip(batch.sample_ids, batch.view, strict=True))
            return super().__call__(batch)

    counted, chance = Counting(teacher.network), np.random.default_rng(0)
    for _ in range(3):
        cached = make_cached(counted, tmp_path / "c")
        calls[:] = [call for call in calls if call != (0, 0)]  # the layout was tried on two blank pictures
        for epoch in range(6):
            for samples in chance.permutation(IDS).reshape(3, 4):
                cached(make_batch(samples, epoch % 3))
    assert sorted(calls) == [(sample, view) for sample in IDS.tolist() for view in range(3)]


# ---------------------------------------------------------------- two at once, and unfinished ones


def test_two_runs_on_one_folder_use_each_others_answers_as_they_come(teacher, tmp_path):
    one, two = make_cached(teacher, tmp_path / "c"), make_cached(teacher, tmp_path / "c")
    first = one(make_batch(IDS[:6]))
    assert torch.equal(two(make_batch(IDS[:6])).logits, first.logits)
    two(make_batch(IDS[6:]))
    one(make_batch(IDS[6:]))
    assert (one.num_asked, one.num_read, two.num_asked, two.num_read) == (6, 6, 6, 6)


def test_answers_that_wait_for_a_device_are_written_by_flush_and_by_another_view(teacher, tmp_path):
    cached = make_cached(teacher, tmp_path / "c")
    for view in (0, 1):
        batch = make_batch(IDS, view)
        cached._open(view)
        rows = np.searchsorted(IDS, batch.host.sample_ids)
        cached._ask(batch, rows, None, np.arange(12))  # as on a device: nothing has been written yet
        assert cached.folder.num_written(view) == 0
    assert cached.folder.num_written(0) == 12, "going to view 1 has written what waited"
    cached.flush()
    assert cached.folder.num_written(1) == 12
    assert torch.equal(make_cached(teacher, tmp_path / "c")(make_batch(IDS, 1)).logits, teacher(make_batch(IDS, 1)).logits)


# ---------------------------------------------------------------- what is not as it should be


@pytest.mark.parametrize("most_in_memory", [0, 1 << 30])
@pytest.mark.parametrize("part", ["answer", "hash", "seal"])
def test_damaged_rows_are_announced_asked_for_again_and_rewritten(teacher, tmp_path, part, most_in_memory):
    cached = make_cached(teacher, tmp_path / "c")
    expected = cached(make_batch(IDS)).logits
    flip_byte(cached.folder.view_path(0), {"seal": 1, "hash": 12 * 3 + 1, "answer": 12 * 11 + 1}[part])  # of the last row
    del cached
    heard = Heard()
    mending = make_cached(teacher, tmp_path / "c", say=heard, most_in_memory=most_in_memory)
    found = mending(make_batch(IDS)).logits
    assert torch.equal(found[:-1], expected[:-1])
    assert torch.allclose(found[-1], expected[-1], atol=1e-5)
    assert (mending.num_asked, mending.num_read) == (1, 11)
    assert len(heard) == 1
    assert heard[0].startswith("teacher cache: 1 answers in ")
    assert heard[0].endswith("are damaged; the teacher is asked for them again")
    again = make_cached(teacher, tmp_path / "c")  # which would fail if anything were said
    assert torch.equal(again(make_batch(IDS)).logits, found)
    assert again.num_asked == 0


def compared_view(samples: np.ndarray) -> tuple[int, int]:
    """A view, and the place of a sample whose picture is compared in it."""
    return next((view, int(np.flatnonzero(chosen)[0])) for view in range(10_000) if (chosen := is_compared(samples, view)).any())


def test_changed_picture_is_an_error_that_names_the_sample(teacher, tmp_path):
    view, place = compared_view(IDS)
    make_cached(teacher, tmp_path / "c")(make_batch(IDS, view))
    batch = make_batch(IDS, view)
    assert make_cached(teacher, tmp_path / "c")(batch)
    for most_in_memory in (0, 1 << 30):
        changed = batch.images.clone()
        changed[place, 2, 15, 15] ^= 1
        with pytest.raises(DataError, match=rf"the picture of sample {IDS[place]} \(view {view}\) is not the one that the teacher's kept answer"):
            make_cached(teacher, tmp_path / "c", most_in_memory=most_in_memory)(batch._replace(images=changed))


def test_changed_picture_is_found_in_a_batch_of_which_some_is_asked_for(teacher, tmp_path):
    view, place = compared_view(IDS)
    make_cached(teacher, tmp_path / "c")(make_batch(IDS[[place]], view))
    batch = make_batch(IDS, view)
    with pytest.raises(DataError, match=f"sample {IDS[place]} "):
        make_cached(teacher, tmp_path / "c")(batch._replace(images=255 - batch.images))


def test_one_picture_in_256_is_compared_and_others_in_each_view():
    ids = np.arange(1 << 16)
    chosen = [is_compared(ids, view) for view in range(300)]
    assert all(0.5 / 256 < one.mean() < 2 / 256 for one in chosen)
    assert np.mean(chosen) == pytest.approx(1 / 256, rel=0.05)
    assert np.mean(np.any(chosen, axis=0)) > 0.5, "in 300 views of 1 / 256, most samples have had their turn"
    assert not np.array_equal(chosen[0], chosen[1])


def fails_with(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_disk_that_takes_no_more_is_said_once_and_the_teacher_answers(teacher, tmp_path, monkeypatch, number):
    cached = make_cached(teacher, tmp_path / "c", say=(heard := Heard()))
    expected = cached(make_batch(IDS)).logits
    monkeypatch.setattr(CacheFolder, "_create", fails_with(number))
    for view in (1, 2, 0):
        assert torch.equal(cached(make_batch(IDS, view)).logits, teacher(make_batch(IDS, view)).logits)
    assert torch.equal(expected, teacher(make_batch(IDS)).logits)
    assert (cached.num_asked, cached.num_read) == (36, 12)
    assert heard == [
        f"teacher cache: {tmp_path / 'c'} can't be written: {os.strerror(number)}; what is there is used, and the teacher is asked for the rest"
    ]
    assert cached.folder.views() == [0]


def test_format_is_obeyed_also_where_nothing_can_be_written(teacher, tmp_path, monkeypatch):
    """So a run on a full disk has the numbers of one that was not."""
    expected = make_cached(teacher, tmp_path / "c", "bf16")(make_batch(IDS)).logits
    monkeypatch.setattr(CacheFolder, "_create", fails_with(errno.ENOSPC))
    assert torch.equal(make_cached(teacher, tmp_path / "d", "bf16", say=Heard())(make_batch(IDS)).logits, expected)


def test_files_that_can_not_be_read_are_said_and_the_teacher_answers(teacher, tmp_path, monkeypatch):
    cached = make_cached(teacher, tmp_path / "c", say=(heard := Heard()))
    cached(make_batch(IDS))
    cached._shelf = None
    monkeypatch.setattr(Path, "open", fails_with(errno.EACCES))
    assert torch.equal(cached(make_batch(IDS)).logits, teacher(make_batch(IDS)).logits)
    assert [text for text in heard if "can't be read: Permission denied" in text]


def test_view_file_that_is_cut_short_stops_the_run_with_its_name(teacher, tmp_path):
    cached = make_cached(teacher, tmp_path / "c")
    cached(make_batch(IDS))
    path = cached.folder.view_path(0)
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(DataError, match=r"view_00000\.safetensors has .* bytes and should have .*: it is cut short"):
        make_cached(teacher, tmp_path / "c")(make_batch(IDS))


def test_feature_that_the_teacher_does_not_give_is_a_key_error(teacher, tmp_path):
    with pytest.raises(KeyError, match="layer1"):
        make_cached(teacher, tmp_path / "c", features=("layer1",))
