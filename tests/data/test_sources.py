"""What every source promises, the embedded sample, the made-up pictures, and the cut into parts."""

import gzip
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data.sources.base import DataSource, Part, stratified_cut, to_rgb
from distill.data.sources.sample import Sample, read_idx
from distill.data.sources.synthetic import Synthetic
from distill.errors import DataError
from distill.resolve import Catalogue


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample()


def parts_of(source: DataSource) -> dict[str, Part]:
    return {"train": source.train, "val": source.val, "test": source.test}


def nearest_mean_accuracy(source: DataSource) -> float:
    train, test = (part.pixels.flatten(1).float() for part in (source.train, source.test))
    means = torch.stack([train[torch.from_numpy(source.train.labels == label)].mean(dim=0) for label in range(len(source.class_names))])
    return (torch.cdist(test, means).argmin(dim=1).numpy() == source.test.labels).mean()


def test_sample_has_the_promised_sizes_and_as_many_of_each_class(sample):
    for name, each in (("train", 700), ("val", 100), ("test", 200)):
        part = parts_of(sample)[name]
        assert len(part) == 10 * each
        assert np.bincount(part.labels, minlength=10).tolist() == [each] * 10
    assert len(sample.class_names) == 10
    sample.check()


def test_no_picture_of_the_sample_is_in_two_parts(sample):
    assert np.array_equal(np.sort(np.concatenate([part.sample_ids for part in parts_of(sample).values()])), np.arange(10_000))


def test_sample_is_the_same_on_every_call(sample):
    again = Sample()
    for name, part in parts_of(sample).items():
        other = parts_of(again)[name]
        assert np.array_equal(part.sample_ids, other.sample_ids)
        assert np.array_equal(part.labels, other.labels)
        assert torch.equal(part.pixels, other.pixels)
    assert sample.fingerprint() == again.fingerprint()


def test_sample_pictures_are_grey_in_three_channels(sample):
    for part in parts_of(sample).values():
        assert part.pixels.shape[1:] == (3, 28, 28)
        assert part.pixels.dtype == torch.uint8
        assert torch.equal(part.pixels[:, 0], part.pixels[:, 1])
        assert torch.equal(part.pixels[:, 0], part.pixels[:, 2])
    assert sample.image_size == 28


def test_sample_pictures_belong_to_their_labels(sample):
    # Ids are rows of the t10k files, whose first labels are published: ankle boot, pullover, trouser, trouser, shirt.
    ids, labels = (np.concatenate([getattr(part, name) for part in parts_of(sample).values()]) for name in ("sample_ids", "labels"))
    label_of = dict(zip(ids, labels, strict=True))
    assert [sample.class_names[label_of[row]] for row in range(5)] == ["Ankle boot", "Pullover", "Trouser", "Trouser", "Shirt"]
    assert nearest_mean_accuracy(sample) > 0.6  # chance is 0.1


def test_sample_mean_and_spread_are_those_of_its_pictures(sample):
    values = sample.train.pixels[:, 0].double() / 255
    assert sample.mean == pytest.approx([values.mean().item()] * 3, abs=0.005)
    assert sample.std == pytest.approx([values.std().item()] * 3, abs=0.005)


def test_sample_takes_a_size_and_refuses_a_root():
    assert Sample(image_size=32).image_size == 32
    with pytest.raises(DataError, match=r"data\.root=pictures means nothing.*imagefolder"):
        Sample(root="pictures")


def test_idx_reader_reads_bytes_made_by_hand(tmp_path):
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 1, 4])  # unsigned bytes, three axes: 2, 1 and 260
    body = bytes(range(256)) + bytes(4) + bytes([9]) * 260
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + body))
    array = read_idx(tmp_path / "a.gz")
    assert array.shape == (2, 1, 260)
    assert array.dtype == np.uint8
    assert array[0, 0].tolist() == [*range(256), 0, 0, 0, 0]
    assert (array[1] == 9).all()
    (tmp_path / "b.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7])))
    assert read_idx(tmp_path / "b.gz").tolist() == [5, 6, 7]


def test_grey_pictures_become_three_equal_channels():
    grey = np.array([[[1, 2], [3, 4]]], dtype=np.uint8)
    assert to_rgb(grey).tolist() == [[[[1, 2], [3, 4]]] * 3]


def test_synthetic_is_the_same_on_every_call():
    for name, part in parts_of(Synthetic()).items():
        assert torch.equal(part.pixels, parts_of(Synthetic())[name].pixels)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"noise": 0.4}, {"num_classes": 5}])
def test_synthetic_changes_with_its_arguments(changed):
    assert Synthetic(**changed).fingerprint() != Synthetic().fingerprint()


def test_synthetic_picture_does_not_depend_on_how_many_there_are():
    assert torch.equal(Synthetic(num_train=40).train.pixels, Synthetic(num_train=90).train.pixels[:40])


def test_synthetic_has_the_sizes_asked_for_and_no_picture_twice():
    source = Synthetic(image_size=12, num_classes=3, num_train=30, num_val=6, num_test=9)
    assert [part.pixels.shape for part in parts_of(source).values()] == [(30, 3, 12, 12), (6, 3, 12, 12), (9, 3, 12, 12)]
    assert np.concatenate([part.sample_ids for part in parts_of(source).values()]).tolist() == list(range(45))
    assert np.bincount(source.train.labels).tolist() == [10, 10, 10]
    assert len({picture.numpy().tobytes() for part in parts_of(source).values() for picture in part.pixels}) == 45
    source.check()


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_synthetic_can_be_learned(num_classes):
    assert nearest_mean_accuracy(Synthetic(num_classes=num_classes, image_size=16)) > 0.9


def test_synthetic_without_signal_can_not_be_learned():
    assert nearest_mean_accuracy(Synthetic(num_classes=4, image_size=16, noise=1.0, num_test=200)) < 0.4  # chance is 0.25, 5 standard deviations


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan")])
def test_synthetic_refuses_a_share_of_noise_that_is_none(noise):
    with pytest.raises(DataError, match=f"from 0 to 1, got {noise}"):
        Synthetic(noise=noise)


def test_synthetic_refuses_a_root():
    with pytest.raises(DataError, match=r"data\.root=here means nothing"):
        Synthetic(root="here")


def test_one_class_is_too_few():
    with pytest.raises(DataError, match=r"only one class \('wave0'\)"):
        Synthetic(num_classes=1).check()


def test_empty_part_is_named():
    with pytest.raises(DataError, match="the val part has no pictures"):
        Synthetic(num_val=0).check()


@pytest.mark.parametrize("fraction, counts", [(0.1, [10, 2, 1]), (0.25, [24, 6, 1]), (0.5, [48, 12, 2])])
def test_cut_takes_the_fraction_of_every_class(fraction, counts):
    labels = np.array(([0] * 4 + [1]) * 25)
    labels[:5] = 2  # 96, 24 and 5 of the classes 0, 1 and 2
    kept, cut = stratified_cut(labels, fraction)
    assert np.array_equal(np.sort(np.concatenate([kept, cut])), np.arange(125))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(cut) > 0).all()
    assert np.bincount(labels[cut]).tolist() == counts


def test_cut_is_always_the_same_and_not_the_first_ones():
    labels = np.repeat([0, 1], 50)
    cut = stratified_cut(labels, 0.2)[1]
    assert np.array_equal(cut, stratified_cut(labels, 0.2)[1])
    assert cut.tolist() != [*range(10), *range(50, 60)]


def test_class_too_small_to_be_cut_is_named():
    with pytest.raises(DataError, match="class 'dog' has 1 picture"):
        stratified_cut(np.array([0, 0, 0, 1]), 0.1, ["cat", "dog"])
    with pytest.raises(DataError, match="class number 1 has 1 picture"):
        stratified_cut(np.array([0, 0, 0, 1]), 0.1)


def changed_copy(source: Synthetic, part: str, **changed) -> Synthetic:
    old = parts_of(source)[part]
    values = {"labels": old.labels.copy(), "sample_ids": old.sample_ids.copy(), "pixels": old.pixels.clone()} | changed
    other = Synthetic(image_size=8)
    setattr(other, part, Part(values["labels"], values["sample_ids"], pixels=values["pixels"]))
    return other


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_fingerprint_changes_with_a_label_an_id_and_a_pixel_of_each_part(part):
    source = Synthetic(image_size=8)
    old = parts_of(source)[part]
    labels, ids, pixels = old.labels.copy(), old.sample_ids.copy(), old.pixels.clone()
    labels[-1] = (labels[-1] + 1) % 4
    ids[-1] += 1
    pixels[-1, -1, -1, -1] ^= 1
    assert changed_copy(source, part).fingerprint() == source.fingerprint()
    for changed in ({"labels": labels}, {"sample_ids": ids}, {"pixels": pixels}):
        assert changed_copy(source, part, **changed).fingerprint() != source.fingerprint()


def test_fingerprint_changes_with_a_class_name():
    one, other = Synthetic(), Synthetic()
    other.class_names = ["wave0", "wave1", "wave2", "ripple"]
    assert one.fingerprint() != other.fingerprint()


def test_subset_of_a_subset_keeps_ids_and_pictures():
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 2, 2)
    resident = Part(np.arange(10) % 3, np.arange(10) + 50, pixels=pixels)
    decoded = Part(np.arange(10) % 3, np.arange(10) + 50, read=lambda position: pixels[position])
    for part in (resident, decoded):
        chosen = part.subset(np.array([9, 4, 7, 1])).subset(np.array([2, 0]))
        assert len(chosen) == 2
        assert chosen.sample_ids.tolist() == [57, 59]
        assert chosen.labels.tolist() == [1, 0]
        assert [int(chosen.picture(position)[0, 0, 0]) for position in range(2)] == [7, 9]


@pytest.mark.parametrize("name", Catalogue().names("sources"))
def test_every_source_has_a_section_in_the_docs(name):
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in text
    assert f"[`{name}`](#{name})" in text
    arguments = list(inspect.signature(Catalogue().get("sources", name)).parameters)[3:]
    section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    missing = [argument for argument in arguments if f"`{argument}`" not in section and f"data.arguments.{argument}" not in section]
    assert set(missing) <= {"decoder", "download"}  # which are described once for all sources


def test_part_has_pixels_or_a_way_to_read_them():
    for arguments in ({}, {"pixels": torch.zeros(1, 3, 1, 1, dtype=torch.uint8), "read": lambda position: None}):
        with pytest.raises(ValueError, match="either pixels or a way"):
            Part(np.zeros(1), np.zeros(1), **arguments)
