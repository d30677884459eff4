"""Both loaders on both paths: pictures in memory, and pictures decoded from files by workers."""

import gc
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data import loader as loader_module
from distill.data.loader import NO_LABEL, EvaluationLoader, TrainingLoader
from distill.data.mixing import Mixing
from distill.data.random_rows import ViewTables
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.sources.imagefolder import ImageFolder
from distill.data.views import Views, plain_view
from distill.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores

CPU = torch.device("cpu")
NUM, SIZE = 26, 20
VIEWS = {
    "none": Views(SIZE, flip=0.5),
    "padded": Views(SIZE, crop="padded", padding=2, flip=0.5),
    "random_resized": Views(12, crop="random_resized", flip=0.5),
}
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "erase": 0.5, "fill": (120, 110, 100)}
MIXED = Views(SIZE, crop="padded", padding=2, flip=0.5, **COLOURS, mixing=Mixing(0.8, 1.0, 0.7))
ALL_AT_ONCE = Views(12, crop="random_resized", flip=0.5, auto="trivial", **COLOURS, mixing=Mixing(0.8, 1.0, 0.7))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (NUM, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    """train/ with the pictures as PNGs, 13 of each class; val/ and test/ with one of each."""
    root = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(pixels):
        for part in ("train", "val", "test") if index % 13 == 0 else ("train",):
            path = root / part / ("cat" if index < 13 else "dog") / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def in_files(folder) -> Part:
    return ImageFolder(str(folder)).train


@pytest.fixture(scope="module")
def in_memory(pixels) -> Part:
    return Part(np.array([0] * 13 + [1] * 13), np.arange(NUM), pixels=pixels)


def loader(
    part: Part,
    views: Views = VIEWS["padded"],
    *,
    workers=0,
    num_views=5,
    accumulation=1,
    view_seed=7,
    batch=8,
    seed=1,
    rank=0,
    world_size=1,
    **options,
) -> TrainingLoader:
    sampler = StepSampler(len(part), batch, seed=seed, accumulation=accumulation, rank=rank, world_size=world_size)
    options = {"view_seed": view_seed, "num_views": num_views, "device": CPU, "workers": workers, "num_classes": 2} | options
    return TrainingLoader(part, views, sampler, **options)


def assert_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for first, second in zip(ours, theirs, strict=True):
        assert np.array_equal(first.host.sample_ids, second.host.sample_ids)
        assert first.host[1:] == second.host[1:]
        for name in first._fields[:4]:
            assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("kind", VIEWS)
def test_pictures_in_memory_and_in_files_give_the_same_batches(in_memory, in_files, kind):
    for epoch in (0, 3):
        assert_equal(loader(in_files, VIEWS[kind]).epoch(epoch), loader(in_memory, VIEWS[kind]).epoch(epoch))


def test_a_batch_holds_the_views_labels_and_ids_of_its_samples(in_memory, pixels):
    batches = list(loader(in_memory, VIEWS["random_resized"]).epoch(3))
    positions = StepSampler(NUM, 8, seed=1).micro_batches(3)
    for batch, chosen in zip(batches, positions, strict=True):
        assert batch.sample_ids.tolist() == chosen.tolist()
        assert batch.labels.tolist() == [int(position >= 13) for position in chosen]
        assert batch.view.tolist() == [3] * 8
        assert torch.equal(batch.images, VIEWS["random_resized"].apply(pixels[chosen], ViewTables(7, 3, NUM).of(chosen)))
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == batch.sample_ids.dtype == batch.view.dtype == torch.int64


def test_views_follow_the_sample_id_and_not_the_position(pixels):
    part = Part(np.zeros(NUM), np.arange(NUM) * 3 + 100, pixels=pixels)
    for batch in loader(part).epoch(0):
        ids = batch.sample_ids.numpy()
        assert torch.equal(batch.images, VIEWS["padded"].apply(pixels[(ids - 100) // 3], ViewTables(7, 0, 200).of(ids)))


def test_workers_change_nothing_even_when_an_epoch_is_abandoned(in_files):
    alone, helped = loader(in_files), loader(in_files, workers=2)
    assert_equal(helped.epoch(0), alone.epoch(0))
    next(helped.epoch(1))  # and never read on, though the workers have gone ahead
    assert_equal(helped.epoch(2), alone.epoch(2))
    assert_equal(helped.epoch(1, first_step=2), alone.epoch(1, first_step=2))


def test_loader_is_freed_when_dropped_without_waiting_for_the_garbage_collector(in_files):
    # In a cycle its workers would be ended by the collector, in an order in which torch waits 5 seconds for each.
    gc.disable()
    try:
        loading = loader(in_files)
        dropped = weakref.ref(loading._workers)
        list(loading.epoch(0))
        del loading
        assert dropped() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_is_freed_when_an_epoch_is_broken_off(in_files):
    # What is left of an epoch's batches must not lead back to the loader: its workers would never be told to end, and all would wait for them.
    gc.disable()
    try:
        sampler = StepSampler(len(in_files), 2, seed=1)  # 13 batches: more than a worker is asked for in advance
        loading = TrainingLoader(in_files, VIEWS["padded"], sampler, view_seed=7, num_views=5, device=CPU, workers=1)
        dropped, batches = weakref.ref(loading._workers), loading.epoch(0)
        next(batches)
        del batches, loading
        assert dropped() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("part", ["in_memory", "in_files"])
@pytest.mark.parametrize("first_step", [1, 2])
def test_an_epoch_continued_is_the_tail_of_the_epoch(request, part, first_step, accumulation):
    loading = loader(request.getfixturevalue(part), accumulation=accumulation)
    assert loading.steps_per_epoch == 3
    assert_equal(loading.epoch(4, first_step=first_step), list(loading.epoch(4))[first_step * accumulation :])


@pytest.mark.parametrize("part", ["in_memory", "in_files"])
def test_views_come_round_again_after_num_views_epochs(request, part):
    loading = loader(request.getfixturevalue(part), num_views=2)
    shown = [{int(i): image for batch in loading.epoch(epoch) for i, image in zip(batch.sample_ids, batch.images, strict=True)} for epoch in range(4)]
    assert [int(next(loading.epoch(epoch)).view[0]) for epoch in range(4)] == [0, 1, 0, 1]
    for first, second, is_same in ((0, 2, True), (1, 3, True), (0, 1, False)):
        common = shown[first].keys() & shown[second].keys()
        assert len(common) >= 2 * 24 - NUM
        assert all(torch.equal(shown[first][i], shown[second][i]) for i in common) == is_same
    assert list(shown[0]) != list(shown[2])  # the order is another one all the same


def test_view_seed_changes_the_views_and_not_the_order(in_memory):
    one, other = next(loader(in_memory).epoch(0)), next(loader(in_memory, view_seed=8).epoch(0))
    assert torch.equal(one.sample_ids, other.sample_ids)
    assert not torch.equal(one.images, other.images)


def test_loading_leaves_the_global_random_numbers_alone(in_files):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader(in_files).epoch(0))
    list(EvaluationLoader(in_files, SIZE, batch_size=8, device=CPU))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num", [1, 2, 7, 25])
@pytest.mark.parametrize("part", ["in_memory", "in_files"])
def test_evaluation_sees_each_sample_once_over_all_processes(request, part, num, world_size):
    chosen = request.getfixturevalue(part).subset(np.arange(NUM - num, NUM))
    seen = []
    for rank in range(world_size):
        for positions, batch in EvaluationLoader(chosen, SIZE, batch_size=4, device=CPU, rank=rank, world_size=world_size):
            assert 1 <= len(positions) == len(batch.images) <= 4
            assert batch.sample_ids.tolist() == (positions + NUM - num).tolist()
            assert batch.labels.tolist() == [int(position + NUM - num >= 13) for position in positions]
            seen += positions.tolist()
    assert sorted(seen) == list(range(num))


@pytest.mark.parametrize("size", [SIZE, 9])
def test_evaluation_shows_the_unvaried_picture_on_both_paths(in_memory, in_files, pixels, size):
    for part, workers in ((in_memory, 0), (in_files, 0), (in_files, 2)):
        loading = EvaluationLoader(part, size, batch_size=10, device=CPU, workers=workers)
        for _ in range(2):  # it can be gone through again
            shown = list(loading)
            assert [len(positions) for positions, _ in shown] == [10, 10, 6]
            order = torch.cat([positions for positions, _ in shown])
            assert torch.equal(torch.cat([batch.images for _, batch in shown]), plain_view(pixels, size)[order])


def test_evaluation_mixes_classes_that_lie_behind_each_other(in_memory):
    num = 400
    part = Part(np.repeat(np.arange(4), num // 4), np.arange(num), pixels=torch.zeros(num, 3, 2, 2, dtype=torch.uint8))
    for _, batch in EvaluationLoader(part, 2, batch_size=100, device=CPU):
        assert np.bincount(batch.labels.numpy(), minlength=4).min() >= 10


def test_pictures_of_different_sizes_share_a_batch(tmp_path):
    for name, width in (("a", 5), ("b", 40)):
        for part in ("train", "val", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (width + index, 9), (index, 2, 3)).save(tmp_path / part / name / f"{index}.png")
    part = ImageFolder(str(tmp_path)).train
    for views in VIEWS.values():
        assert next(loader(part, views).epoch(0)).images.shape == (8, 3, views.size, views.size)


def failure_of(loading) -> str:
    """The DataError's text; the error itself is let go, because its traceback would keep the loader for the garbage collector."""
    try:
        list(loading)
    except DataError as error:
        return str(error)
    return "no failure"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"this is no picture", b"", None])
def test_broken_picture_is_named_without_a_traceback(tmp_path, folder, workers, content):
    for path in folder.rglob("*.png"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    broken = tmp_path / "train" / "dog" / "015.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)  # None: cut off
    part = ImageFolder(str(tmp_path)).train
    everything = part.subset(np.arange(24))  # three whole batches: the broken one is in every epoch
    for loading in (loader(everything, workers=workers).epoch(0), EvaluationLoader(part, SIZE, batch_size=8, device=CPU, workers=workers)):
        message = failure_of(loading)
        assert str(broken) in message
        assert "Traceback" not in message
        assert "\n" not in message


def by_sample(batches) -> dict[int, tuple[bytes, list[float]]]:
    """sample id -> its picture and label."""
    found = {}
    for batch in batches:
        for sample_id, image, label in zip(batch.sample_ids.tolist(), batch.images, batch.labels.tolist(), strict=True):
            assert sample_id not in found
            found[sample_id] = (image.numpy().tobytes(), label)
    return found


@pytest.mark.parametrize("kind", ["mixed", "all at once"])
def test_what_a_sample_shows_depends_on_its_view_and_on_nothing_else(in_memory, in_files, kind):
    """Neither on batches, order, workers, processes, the step that is begun with, nor on where pictures and their partners come from."""
    views = {"mixed": MIXED, "all at once": ALL_AT_ONCE}[kind]
    reference = by_sample(loader(in_memory, views, batch=1).epoch(3))
    assert len(reference) == NUM
    others = [
        loader(in_memory, views, batch=3).epoch(3),
        loader(in_memory, views, batch=7).epoch(3),
        loader(in_memory, views, batch=8, accumulation=2).epoch(3),
        loader(in_memory, views, seed=9).epoch(3),
        loader(in_memory, views).epoch(3, first_step=1),
        loader(in_files, views).epoch(3),
        loader(in_files, views, batch=7, workers=3).epoch(3, first_step=1),
        loader(in_files, views, num_views=4).epoch(7),  # view 3 again
    ]
    for batches in others:
        found = by_sample(batches)
        assert len(found) >= 14
        assert found == {sample_id: reference[sample_id] for sample_id in found}
    shares = [by_sample(loader(part, views, rank=rank, world_size=2).epoch(3)) for part, rank in ((in_memory, 0), (in_files, 1))]
    assert not shares[0].keys() & shares[1].keys()
    together = shares[0] | shares[1]
    assert len(together) == 24
    assert together == {sample_id: reference[sample_id] for sample_id in together}


def test_mixed_epoch_continued_is_the_tail_of_the_epoch_in_memory_and_in_files(in_memory, in_files):
    for part, workers in ((in_memory, 0), (in_files, 0), (in_files, 3)):
        loading = loader(part, ALL_AT_ONCE, workers=workers)
        assert_equal(loading.epoch(4, first_step=2), list(loading.epoch(4))[2:])


def test_mixed_pictures_and_labels_by_hand(in_memory, pixels):
    """Cutmix without any other variation: each pixel is that of the picture or of one partner, and the label says how many of them are whose."""
    views = Views(SIZE, mixing=Mixing(cutmix=1.0))
    partner_of = {}
    for batch in loader(in_memory, views, batch=1).epoch(0):
        sample_id, image = int(batch.sample_ids), batch.images[0]
        differs = (image != pixels[sample_id]).any(dim=0)
        if differs.any():
            fitting = [other for other in range(NUM) if torch.equal(image[:, differs], pixels[other][:, differs])]
            assert len(fitting) == 1
            partner_of[sample_id] = fitting[0]
            theirs = np.zeros(2)
            theirs[int(sample_id >= 13)] += 1 - differs.float().mean()
            theirs[int(fitting[0] >= 13)] += differs.float().mean()
            assert batch.labels[0].tolist() == pytest.approx(theirs.tolist(), abs=1e-6)
        assert batch.labels.dtype == torch.float32
    assert len(partner_of) > 18
    assert len(set(partner_of.values())) == len(partner_of)  # nobody is two pictures' partner


def test_partner_is_seen_in_its_own_view(in_memory, pixels):
    """Mixup with a share near one half: twice the mixed picture, less the view of the picture, is the view of the partner."""
    plain, mixed = Views(SIZE, crop="padded", padding=2, flip=0.5), Views(SIZE, crop="padded", padding=2, flip=0.5, mixing=Mixing(mixup=1e9))
    alone = {i: np.frombuffer(picture, np.uint8).astype(int) for i, (picture, _) in by_sample(loader(in_memory, plain, batch=1).epoch(0)).items()}
    together = {i: np.frombuffer(picture, np.uint8).astype(int) for i, (picture, _) in by_sample(loader(in_memory, mixed, batch=1).epoch(0)).items()}
    partner_of = {}
    for sample_id, picture in together.items():
        partner = 2 * picture - alone[sample_id]
        partner_of[sample_id] = next(other for other in alone if np.abs(alone[other] - partner).max() <= 1)
    assert sorted(partner_of.values()) == list(range(NUM))


def test_mixing_one_picture_decodes_its_partner_only_where_it_is_seen(in_files):
    read = []
    part = Part(in_files.labels, in_files.sample_ids, read=lambda position: read.append(position) or in_files.picture(position))
    mixing = Mixing(mixup=1.0, probability=0.3)
    (batch,) = loader(part, Views(SIZE, mixing=mixing), batch=NUM).epoch(0)
    num_mixed = int((batch.labels.max(dim=1).values < 1).sum())
    assert NUM < len(read) < NUM + 15
    assert len(read) - NUM >= num_mixed  # two of one class have one label


@pytest.mark.parametrize("auto", ["trivial", "rand"])
def test_pictures_that_are_varied_one_by_one_go_through_workers_even_from_memory(in_memory, in_files, auto):
    views = Views(SIZE, auto=auto, flip=0.5)
    loading = loader(in_memory, views, workers=3)
    assert loading._workers is not None
    assert loading._pixels is None
    assert_equal(loading.epoch(1), loader(in_files, views).epoch(1))
    assert loader(in_memory, Views(SIZE, brightness=0.4, erase=0.5))._workers is None


@pytest.mark.parametrize("views", [VIEWS["padded"], MIXED])
@pytest.mark.parametrize("part", ["in_memory", "in_files"])
def test_labels_that_nobody_may_look_at_are_minus_one(request, part, views):
    shown = list(loader(request.getfixturevalue(part), views, has_labels=False, num_classes=0).epoch(0))
    for hidden, known in zip(shown, loader(request.getfixturevalue(part), views).epoch(0), strict=True):
        assert hidden.labels.tolist() == [NO_LABEL] * 8 == [-1] * 8
        assert hidden.labels.dtype == torch.int64
        assert torch.equal(hidden.images, known.images)


def test_mixing_without_knowing_the_classes_is_refused(in_memory):
    with pytest.raises(ValueError, match="how many classes are there"):
        loader(in_memory, MIXED, num_classes=0)


def test_tables_are_made_once_an_epoch(in_memory, monkeypatch):
    made = []
    monkeypatch.setattr(loader_module, "ViewTables", lambda *arguments: made.append(arguments) or ViewTables(*arguments))
    loading = loader(in_memory, MIXED)
    for epoch in range(3):
        list(loading.epoch(epoch))
    assert made == [(7, view, NUM) for view in range(3)]
