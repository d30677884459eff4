"""Hugging Face's data sets on disk, in each of their formats; what the hub would give is the same objects."""

from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.sources.huggingface import HuggingFace
from distill.errors import DataError, RecipeError


@pytest.fixture
def datasets(monkeypatch) -> Any:
    library = pytest.importorskip("datasets", reason="the package datasets is optional: pip install datasets")
    monkeypatch.setattr(library, "load_dataset", _quiet(library.load_dataset, library))
    return library


def _quiet(function, library):
    def run(*arguments, **options):
        library.disable_progress_bars()
        try:
            return function(*arguments, **options)
        finally:
            library.enable_progress_bars()

    return run


def png(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    return file.getvalue()


def make(datasets: Any, part: int, labels: list[Any], label_feature: Any = None, columns: tuple[str, str] = ("image", "label")) -> Any:
    """A picture for each label; its colour is (its label modulo 256, the part, its number)."""
    numbers = [label % 256 if isinstance(label, int) else 0 for label in labels]
    pictures = [{"bytes": png(number, part, row), "path": None} for row, number in enumerate(numbers)]
    feature = label_feature or datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: feature})
    return datasets.Dataset.from_dict({columns[0]: pictures, columns[1]: labels}, features=features)


def parquet(root: Path, splits: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, dataset in splits.items():
        dataset.to_parquet(str(root / f"{name}-00000-of-00001.parquet"))
    return root


def colours(source: HuggingFace, part: str) -> list[tuple[int, ...]]:
    part = getattr(source, part)
    return [tuple(part.picture(position)[:, 0, 0].tolist()) for position in range(len(part))]


def three(datasets: Any) -> dict[str, Any]:
    return {"train": make(datasets, 0, [1, 0, 1]), "validation": make(datasets, 1, [0, 1]), "test": make(datasets, 2, [1])}


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_splits_are_the_parts(datasets, tmp_path, kind):
    if kind == "parquet":
        parquet(tmp_path / "set", three(datasets))
    else:
        datasets.DatasetDict(three(datasets)).save_to_disk(str(tmp_path / "set"))
    source = HuggingFace(str(tmp_path / "set"))
    assert source.class_names == ["cat", "dog"]
    assert colours(source, "train") == [(1, 0, 0), (0, 0, 1), (1, 0, 2)]
    assert colours(source, "val") == [(0, 1, 0), (1, 1, 1)]
    assert colours(source, "test") == [(1, 2, 0)]
    assert [part.labels.tolist() for part in (source.train, source.val, source.test)] == [[1, 0, 1], [0, 1], [1]]
    assert [part.sample_ids.tolist() for part in (source.train, source.val, source.test)] == [[0, 1, 2], [3, 4], [5]]
    assert (source.note, source.image_size) == ("", 224)
    assert source.decoder
    assert source.train.picture(0).shape == (3, 3, 4)
    source.check()


def test_folders_of_pictures_are_read_by_their_file_names(datasets, tmp_path):
    for part, name, number in [(part, name, number) for part in ("train", "test") for name in ("cat", "dog") for number in range(4)]:
        path = tmp_path / "set" / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(("cat", "dog").index(name), ("train", "test").index(part), number))
    source = HuggingFace(str(tmp_path / "set"), val_fraction=0.25)
    assert source.class_names == ["cat", "dog"]
    assert colours(source, "test") == [(label, 1, number) for label in (0, 1) for number in range(4)]
    assert sorted(colours(source, "train") + colours(source, "val")) == [(label, 0, number) for label in (0, 1) for number in range(4)]
    assert source.note == "val is 25% of train, set aside"
    (tmp_path / "set" / "test" / "cat" / "0.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"can't read the picture .*test/cat/0\.png: it is none of JPEG"):
        source.test.picture(0)
    (tmp_path / "set" / "test" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"number 0 of test in .*: there is no file .*0\.png"):
        source.test.picture(0)


def test_one_split_is_cut_three_ways_and_always_alike(datasets, tmp_path):
    make(datasets, 0, [0, 1] * 20).save_to_disk(str(tmp_path / "set"))
    source, again = HuggingFace(str(tmp_path / "set")), HuggingFace(str(tmp_path / "set"))
    for name, each in (("train", 16), ("val", 2), ("test", 2)):
        part = getattr(source, name)
        assert np.bincount(part.labels).tolist() == [each, each]
        assert part.sample_ids.tolist() == getattr(again, name).sample_ids.tolist() == [colour[2] for colour in colours(source, name)]
    assert source.fingerprint() == again.fingerprint()


def test_pictures_are_read_after_pickling(datasets, tmp_path):
    source = HuggingFace(str(parquet(tmp_path / "set", three(datasets))))
    part = pickle.loads(pickle.dumps(source.val))
    assert [tuple(part.picture(position)[:, 0, 0].tolist()) for position in (1, 0)] == [(1, 1, 1), (0, 1, 0)]


def test_columns_may_have_other_names(datasets, tmp_path):
    splits = {"train": make(datasets, 0, [0, 1] * 5, columns=("img", "fine_label")), "test": make(datasets, 1, [0, 1], columns=("img", "fine_label"))}
    parquet(tmp_path / "set", splits)
    assert len(HuggingFace(str(tmp_path / "set"), image="img", label="fine_label").train) == 8
    with pytest.raises(
        DataError, match=r"no column 'image'; did you mean 'img'\?; set data\.arguments\.image to one of: img \(Image\), fine_label \(Class"
    ):
        HuggingFace(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"no column 'fine_labels'; did you mean 'fine_label'\?; set data\.arguments\.label"):
        HuggingFace(str(tmp_path / "set"), image="img", label="fine_labels")
    with pytest.raises(DataError, match=r"the column 'fine_label' holds no pictures, but ClassLabel"):
        HuggingFace(str(tmp_path / "set"), image="fine_label", label="img")


def test_labels_may_be_numbers_or_names(datasets, tmp_path):
    splits = {"train": make(datasets, 0, [2, 0, 1] * 4, datasets.Value("int32")), "test": make(datasets, 1, [1], datasets.Value("int32"))}
    source = HuggingFace(str(parquet(tmp_path / "numbers", splits)))
    assert source.class_names == ["0", "1", "2"]
    assert source.test.labels.tolist() == [1]
    splits = {"train": make(datasets, 0, ["dog", "cat"] * 4, datasets.Value("string")), "test": make(datasets, 1, ["dog"], datasets.Value("string"))}
    source = HuggingFace(str(parquet(tmp_path / "names", splits)))
    assert source.class_names == ["cat", "dog"]
    assert source.test.labels.tolist() == [1]
    splits["test"] = make(datasets, 1, ["eel", "cat"], datasets.Value("string"))
    with pytest.raises(DataError, match=r"test: 1 label\(s\) are out of range, the first is -1, of picture number 0"):
        HuggingFace(str(parquet(tmp_path / "more", splits)))


def test_test_split_without_labels_is_left_out(datasets, tmp_path):
    splits = {"train": make(datasets, 0, [0, 1] * 5), "validation": make(datasets, 1, [0, 1]), "test": make(datasets, 2, [-1, -1, -1])}
    source = HuggingFace(str(parquet(tmp_path / "set", splits)))
    assert colours(source, "test") == [(0, 1, 0), (1, 1, 1)]
    assert "the set's own test has no labels and is left out" in source.note
    assert source.note.startswith("test is the set's own val; val is 10% of train")


@pytest.mark.parametrize("label", [-1, 3, 200])
def test_label_out_of_range_is_named(datasets, tmp_path, label):
    splits = {
        "train": make(datasets, 0, [0, 1, 2] * 4, datasets.Value("int64")),
        "validation": make(datasets, 1, [0, label], datasets.Value("int64")),
    }
    with pytest.raises(DataError, match=rf"val: 1 label\(s\) are out of range, the first is {label}, of picture number 1"):
        HuggingFace(str(parquet(tmp_path / "set", splits)))


def test_picture_without_a_label_is_counted(datasets, tmp_path):
    splits = {"train": make(datasets, 0, [0, None, 1])}
    with pytest.raises(DataError, match="train: 1 pictures have no label in the column 'label'"):
        HuggingFace(str(parquet(tmp_path / "set", splits)))


def test_column_of_fractions_is_no_label(datasets, tmp_path):
    with pytest.raises(DataError, match="the column 'label' holds no labels, but float32"):
        HuggingFace(str(parquet(tmp_path / "set", {"train": make(datasets, 0, [0.5], datasets.Value("float32"))})))


def test_broken_and_missing_pictures_are_named(datasets, tmp_path):
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [{"bytes": png(0), "path": None}] * 3 + [{"bytes": b"text", "path": "x.png"}, {"bytes": None, "path": "https://a.org/b.png"}, None]
    (tmp_path / "set").mkdir()
    for name, rows in (("train", pictures[:1] * 4), ("test", pictures)):  # as another program would write it: without what datasets notes
        columns = {"image": rows, "label": [number % 2 for number in range(len(rows))]}
        picture = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
        writer.write_table(arrow.table(columns, arrow.schema({"image": picture, "label": arrow.int64()})), tmp_path / "set" / f"{name}.parquet")
    source = HuggingFace(str(tmp_path / "set"))
    assert source.class_names == ["0", "1"]
    for position, reason in ((3, "it is none of JPEG"), (4, "there is no file https://a.org/b.png"), (5, "there is nothing in it")):
        with pytest.raises(DataError, match=f"can't read the picture number {position} of test in .*set: {reason}"):
            source.test.picture(position)
    assert source.fingerprint() == HuggingFace(str(tmp_path / "set")).fingerprint()


def test_fingerprint_notices_labels_sizes_and_files(datasets, tmp_path):
    def fingerprint(name: str, **changed: Any) -> str:
        splits = three(datasets) | changed
        return HuggingFace(str(parquet(tmp_path / name, splits))).fingerprint()

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("c", test=make(datasets, 2, [0])) != fingerprint("a")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    longer = datasets.Dataset.from_dict({"image": [{"bytes": png(1, 2, 0) + b"\0", "path": None}], "label": [1]}, features=features)
    assert fingerprint("d", test=longer) != fingerprint("a")


def test_damaged_file_is_a_data_error(datasets, tmp_path):
    path = parquet(tmp_path / "set", three(datasets)) / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"the data set .*set can't be had: "):
        HuggingFace(str(tmp_path / "set"))


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.parquet", "hf://datasets/org/name/a.parquet", '"http\\u003a//127.0.0.1:9/a.parquet"'])
def test_folder_that_names_files_on_the_network_is_refused(datasets, tmp_path, name, address):
    path = parquet(tmp_path / "set", {"train": make(datasets, 0, [0, 1] * 5)}) / name
    about = "license_link: https://a.org\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n"
    around = "---\n{}---\n" if name == "README.md" else "{}"
    path.write_text(around.format(about.format("train*")))
    assert len(HuggingFace(str(tmp_path / "set")).train) == 6  # of five of each class, one for val and one for test
    path.write_text(around.format(about.format(address)))
    with pytest.raises(DataError, match=rf"{name} names files on the network as data; fetch them into"):
        HuggingFace(str(tmp_path / "set"))


def test_missing_and_empty_folders_are_data_errors(datasets, tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        HuggingFace(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the data set .*empty can't be had"):
        HuggingFace(str(tmp_path / "empty"))


def test_set_without_train_is_told_what_it_has(datasets, tmp_path):
    parquet(tmp_path / "set", {"test": make(datasets, 0, [0, 1])})
    with pytest.raises(DataError, match="has no split train; it has: test"):
        HuggingFace(str(tmp_path / "set"))


def test_name_is_asked_of_the_hub_and_a_failure_names_the_way_without_a_network(datasets, monkeypatch):
    asked = []

    def load(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 1:
            return datasets.DatasetDict(three(datasets))
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(HuggingFace(name="org/name", config="small").train) == 3
    assert asked == [("org/name", "small")]
    with pytest.raises(DataError, match=r"org/name can't be had: Couldn't reach 'org/name' on the Hub \(without a network: data\.root=FOLDER"):
        HuggingFace(name="org/name")


# without the package


@pytest.mark.parametrize("arguments", [{}, {"root": "a", "name": "b"}])
def test_either_a_name_or_a_folder_is_needed(arguments):
    with pytest.raises(RecipeError, match=r"needs data\.arguments\.name=ORG/NAME, or data\.root=FOLDER"):
        HuggingFace(**arguments)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RecipeError, match="needs the package datasets: pip install 'datasets>=4'"):
        HuggingFace(name="org/name")


def test_version_that_would_run_programs_of_strangers_is_refused(monkeypatch):
    old = types.ModuleType("datasets")
    old.__version__ = "3.6.0"
    monkeypatch.setitem(sys.modules, "datasets", old)
    with pytest.raises(RecipeError, match=r"needs datasets>=4, this is 3\.6\.0"):
        HuggingFace(name="org/name")
