"""ImageNet's folders: the order of labels that published weights have, and the states in which people have them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo

from distill.data.sources.imagenet import ImageNet
from distill.errors import DataError

FOLDERS = sorted(ImageNetInfo("imagenet-1k").label_names())


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """A picture for each part, to which all others are links."""
    folder = tmp_path_factory.mktemp("originals")
    for red, part in enumerate(("train", "val")):
        Image.new("RGB", (4, 3), (100 * red, 1, 2)).save(folder / f"{part}.JPEG", quality=100)
    return {part: folder / f"{part}.JPEG" for part in ("train", "val")}


def fill(root: Path, originals: dict[str, Path], folders: list[str] = FOLDERS, **numbers: int) -> Path:
    """numbers: how many pictures each class of a part has."""
    for part, num in (numbers or {"train": 2, "val": 1}).items():
        for name in folders:
            (root / part / name).mkdir(parents=True)
            for number in range(num):
                os.link(originals[part], root / part / name / f"{name}_{number}.JPEG")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory, originals) -> Path:
    folder = fill(tmp_path_factory.mktemp("imagenet"), originals)
    (folder / "test").mkdir()  # the official test pictures, which have no labels
    os.link(originals["val"], folder / "test" / "ILSVRC2012_test_00000001.JPEG")
    return folder


def test_labels_are_numbers_of_the_sorted_folders_and_val_is_the_test_part(root):
    source = ImageNet(str(root))
    assert [len(source.train), len(source.val), len(source.test)] == [1000, 1000, 1000]
    assert source.test.labels.tolist() == list(range(1000))
    assert np.sort(source.train.labels).tolist() == np.sort(source.val.labels).tolist() == list(range(1000))
    assert np.sort(np.concatenate([source.train.sample_ids, source.val.sample_ids])).tolist() == list(range(2000))
    assert source.test.sample_ids.tolist() == list(range(2000, 3000))
    assert source.note == "test is the folder val/; val is 10% of train/, set aside"
    assert abs(int(source.test.picture(0)[0, 0, 0]) - 100) < 3
    assert int(source.train.picture(0)[0, 0, 0]) < 3
    assert (source.image_size, source.train.picture(5).shape) == (224, (3, 3, 4))
    assert source.decoder
    source.check()


def test_cut_and_fingerprint_are_always_the_same(root):
    source, again = ImageNet(str(root)), ImageNet(str(root))
    assert source.val.sample_ids.tolist() == again.val.sample_ids.tolist()
    assert source.fingerprint() == again.fingerprint()


def test_class_names_are_words_and_belong_to_the_folders(root):
    source = ImageNet(str(root))
    known = {"n01440764": "tench", "n02012849": "crane bird", "n03126707": "crane", "n02123045": "tabby", "n15075141": "toilet tissue"}
    assert {name: source.class_names[FOLDERS.index(name)] for name in known} == known
    assert len(set(source.class_names)) == 1000


def test_class_names_agree_with_another_list_of_them(root):
    """timm's descriptions of the folders, from WordNet: the names have a word in common with them for almost all classes."""
    info, names = ImageNetInfo("imagenet-1k"), ImageNet(str(root)).class_names
    words = [set(info.label_name_to_description(folder, detailed=False).lower().replace(",", " ").split()) for folder in FOLDERS]
    shared = sum(bool(set(name.lower().split()) & known) for name, known in zip(names, words, strict=True))
    assert shared > 950


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        ImageNet(str(root))
    return str(caught.value)


def test_missing_root_and_missing_parts_are_named(tmp_path, originals):
    with pytest.raises(DataError, match=r"data\.source=imagenet needs data\.root=FOLDER, the folder with train/ and val/ in it"):
        ImageNet()
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    assert f"{tmp_path} has no train/ in it. To make it, put ILSVRC2012_img_train.tar and ILSVRC2012_devkit_t12.tar.gz" in refusal(tmp_path)
    fill(tmp_path, originals, train=1)
    assert f"{tmp_path} has no val/ in it. To make it, put ILSVRC2012_img_val.tar" in refusal(tmp_path)


def test_folder_above_that_of_kaggle_is_told_the_right_one(tmp_path):
    inner = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    (inner / "train").mkdir(parents=True)
    assert refusal(tmp_path) == f"{tmp_path} has no train/ in it; is it data.root={inner}?"


def test_flat_val_of_the_original_tar_file_is_explained(tmp_path, originals):
    fill(tmp_path, originals, train=1)
    (tmp_path / "val").mkdir()
    for number in range(1, 4):
        os.link(originals["val"], tmp_path / "val" / f"ILSVRC2012_val_0000000{number}.JPEG")
    message = refusal(tmp_path)
    assert message.startswith(
        f"{tmp_path / 'val'} has the pictures side by side, as they come, and no folder for each class. Remove {tmp_path / 'val'}"
    )
    assert message.endswith(f"run: python -c \"from torchvision.datasets import ImageNet; ImageNet('{tmp_path}', 'val')\"")


def test_train_of_inner_tar_files_is_explained(tmp_path):
    (tmp_path / "train").mkdir()
    for name in FOLDERS[:3]:
        (tmp_path / "train" / f"{name}.tar").touch()
    assert "train has a tar file for each class side by side" in refusal(tmp_path)


def test_subset_and_other_classes_are_sent_to_imagefolder(tmp_path, originals):
    fill(tmp_path / "ten", originals, FOLDERS[:10])
    message = refusal(tmp_path / "ten")
    assert f"train has 10 class folders that are not ImageNet's 1,000; missing: {', '.join(FOLDERS[10:13])} and 987 more" in message
    assert "data.source=imagefolder" in message
    fill(tmp_path / "own", originals, ["cat", "dog"])
    assert "not ImageNet's: cat, dog;" in refusal(tmp_path / "own")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "train has 0 class folders" in refusal(tmp_path / "empty")


def test_class_without_pictures_and_damaged_pictures_are_named(tmp_path, originals):
    fill(tmp_path, originals)
    bad = tmp_path / "val" / FOLDERS[7] / f"{FOLDERS[7]}_0.JPEG"
    bad.unlink()
    assert f"{FOLDERS[7]} has no pictures" in refusal(tmp_path)
    bad.write_bytes(b"damaged")
    source = ImageNet(str(tmp_path))
    with pytest.raises(DataError, match=rf"can't read the picture .*val/{FOLDERS[7]}/{FOLDERS[7]}_0\.JPEG: it is none of JPEG"):
        source.test.picture(7)


def test_fingerprint_notices_a_file_of_another_size(tmp_path, originals):
    fill(tmp_path, originals)
    before = ImageNet(str(tmp_path)).fingerprint()
    path = tmp_path / "train" / FOLDERS[0] / f"{FOLDERS[0]}_0.JPEG"
    content = path.read_bytes()
    path.unlink()  # it is a link
    path.write_bytes(content + b"\0")
    assert ImageNet(str(tmp_path)).fingerprint() != before
