"""Whether a run's teacher answers are kept, how, and in which folder: what decides an answer, what is refused, and what is fallen back from."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div

from distill.build import cache
from distill.build.cache import formats, identity, measured_kl, open_cache, temperatures
from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.engine.answer_formats import logit_format
from distill.engine.cache_files import MANIFEST
from distill.errors import DataError, RecipeError
from distill.models.weight_files import save_weights
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

SMALL = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "train.epochs=3"]


class Heard(list):
    """What was said."""

    def __call__(self, text: str) -> None:
        self.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self)


def weights(path: str = "teacher.safetensors", seed: int = 0, num_classes: int = 4, factor: float = 1.0) -> str:
    torch.manual_seed(seed)
    model = create_model("timm/test_resnet", num_classes=num_classes)
    with torch.no_grad():
        model.fc.weight.mul_(factor)
    save_weights(model.state_dict(), path, {"model": "timm/test_resnet"})
    return path


def opened(
    *overrides: str, source: Synthetic | None = None, precision: str = "fp32", heard: Heard | None = None, decoder: str = "", form: str = "as given"
):
    """(the cache or None, what was said)"""
    source = source or Synthetic(num_train=16, num_val=8, num_test=8)
    if decoder:
        source.decoder = decoder
    path = "teacher.safetensors" if Path("teacher.safetensors").exists() else weights()
    recipe = load_recipe("smoke", [*SMALL, f"teacher.weights={path}", *overrides])
    given = {} if recipe.teacher.weights == "random" else {"teacher": recipe.teacher.weights}
    pieces = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision=precision, weights=given)
    pieces.teacher.form = form
    heard = Heard() if heard is None else heard
    return open_cache(recipe, source, pieces, precision=precision, say=heard), heard


# ---------------------------------------------------------------- what decides an answer

CHANGES = {  # the identity's field -> what changes it
    "teacher's model": {"overrides": ["teacher.model=resnet18", "teacher.weights=random", "teacher.cache.use=on"]},
    "teacher's arguments": {"overrides": ["teacher.arguments={drop_rate: 0.5}"]},
    "teacher's form": {"form": "15 batch norms folded, weights as given"},
    "teacher's weights": {"overrides": ["teacher.weights=other.safetensors"]},
    "teacher's image size": {"overrides": ["teacher.image_size=40"]},
    "teacher's mean": {"overrides": ["teacher.mean=[0.4, 0.5, 0.5]"]},
    "teacher's scale": {"overrides": ["teacher.std=[0.2, 0.25, 0.25]"]},
    "precision": {"precision": "bf16"},
    "views": {"overrides": ["data.augment.flip=0.25"]},
    "view_seed": {"overrides": ["data.view_seed=1"]},
    "decoder": {"decoder": "another library 2.0"},
    "on_bad_image": {"overrides": ["data.on_bad_image=skip"]},
    "format": {"overrides": ["teacher.cache.format=fp32"]},
    "features": {"overrides": ["losses.rkd={weight: 1, layers: [pooled]}", "teacher.cache.features=[pooled]"]},
}


@pytest.mark.parametrize("field", CHANGES)
def test_whatever_decides_an_answer_has_a_folder_of_its_own_and_is_named_where_the_folder_is_fixed(field):
    weights("other.safetensors", seed=1)
    change = CHANGES[field]
    first, _ = opened()
    other, heard = opened(*change.get("overrides", []), **{key: value for key, value in change.items() if key != "overrides"})
    assert other is not None, heard
    assert other.folder.path != first.folder.path
    assert field in {name for name in other.folder.identity if other.folder.identity[name] != first.folder.identity[name]}

    opened("teacher.cache.folder=fixed")
    with pytest.raises(DataError, match="holds other answers than this run needs") as raised:
        opened("teacher.cache.folder=fixed", *change.get("overrides", []), **{key: value for key, value in change.items() if key != "overrides"})
    assert f"\n  {field}: " in str(raised.value)


def test_other_pictures_have_a_folder_of_their_own_and_are_named():
    first, _ = opened("teacher.cache.folder=fixed")
    changed = Synthetic(num_train=16, num_val=8, num_test=8)
    changed.train.pixels[3, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="\n  pictures: "):
        opened("teacher.cache.folder=fixed", source=changed)
    with pytest.raises(DataError, match="\n  pictures: "):
        opened("teacher.cache.folder=fixed", source=Synthetic(num_train=20, num_val=8, num_test=8))
    with pytest.raises(DataError, match="\n  teacher's image size: "):
        opened("teacher.cache.folder=fixed", source=Synthetic(num_train=16, num_val=8, num_test=8, image_size=40))
    assert opened(source=changed)[0].folder.path != opened()[0].folder.path
    assert first.folder.path == Path("fixed")


def test_every_field_of_the_identity_is_among_those_that_are_tried_here():
    found, _ = opened()
    assert set(found.folder.identity) == {*CHANGES, "pictures"}


@pytest.mark.parametrize(
    "value", ["crop=none", "padding=3", "scale=[0.5, 1.0]", "brightness=0.1", "erase=0.2", "mixup=0.2", "cutmix=1.0", "auto=rand", "hue=0.1"]
)
def test_each_part_of_the_view_is_among_what_decides(value):
    first, _ = opened("losses.ce.weight=1")
    assert opened(f"data.augment.{value}")[0].folder.path != first.folder.path


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=7"],
        ["losses.kd.temperature=2"],
        ["losses.dkd.weight=1"],
        ["student.model=resnet18"],
        ["data.global_batch_size=4"],
        ["train.lr=0.5", "train.optimizer=adamw"],
        ["train.epochs=7"],
        ["data.views=2"],
        ["data.labels=none", "losses.ce=null"],
        ["train.accumulation=2"],
        ["run_name=other", "runs_dir=elsewhere"],
    ],
)
def test_run_that_sees_the_same_answers_shares_the_folder(overrides):
    assert opened(*overrides)[0].folder.path == opened()[0].folder.path
    opened("teacher.cache.folder=fixed")
    assert opened("teacher.cache.folder=fixed", *overrides)[0].folder.path == Path("fixed")


def test_identity_is_plain_json_and_says_the_name_of_the_library_that_changes_pixels():
    found, _ = opened("data.augment.auto=trivial")
    assert "torchvision" in found.folder.identity
    assert "torchvision" not in opened()[0].folder.identity
    assert json.loads(json.dumps(found.folder.identity)) == json.loads((found.folder.path / MANIFEST).read_text())["identity"]
    assert callable(identity)


# ---------------------------------------------------------------- falling back, and being told not to


def test_where_it_is_kept_and_how_large_it_is_is_said():
    found, heard = opened()
    assert heard == [f"teacher: its answers are kept in {found.folder.path} (19 bytes each, 912 bytes for 3 view(s)); 0 of 48 are there"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["teacher.weights=random"], "its weights are random"),
        (["losses.rkd={weight: 1, layers: [pooled]}"], r"losses.rkd needs its pooled, which is not kept (teacher.cache.features=[pooled] keeps it)"),
        (
            ["losses.rkd={weight: 1, layers: [pooled]}", "losses.at={weight: 1, layers: [layer2]}", "teacher.cache.features=[layer2]"],
            "losses.rkd needs its pooled, which is not kept (teacher.cache.features=[layer2,pooled] keeps it)",
        ),
    ],
)
def test_auto_asks_the_live_teacher_and_says_why(overrides, words):
    found, heard = opened(*overrides)
    assert found is None
    assert heard == [f"teacher: it is asked in every step: {words}"]
    assert not (Path("cache") / "answers").exists()


def test_on_keeps_the_answers_of_random_weights_too():
    assert opened("teacher.weights=random", "teacher.cache.use=on")[0] is not None


def test_on_is_an_error_where_a_feature_is_not_kept():
    with pytest.raises(RecipeError, match=r"teacher.cache.use=on, but losses.rkd needs its pooled, which is not kept"):
        opened("losses.rkd={weight: 1, layers: [pooled]}", "teacher.cache.use=on")


def test_off_says_nothing_and_keeps_nothing():
    found, heard = opened("teacher.cache.use=off")
    assert found is None
    assert heard == []
    assert not (Path("cache") / "answers").exists()


def test_feature_that_no_loss_uses_is_an_error():
    with pytest.raises(RecipeError, match=r"teacher.cache.features: no loss of this recipe uses pooled"):
        opened("teacher.cache.features=[pooled]")


Usage = namedtuple("Usage", "total used free")


def test_disk_with_too_little_space_is_said_or_an_error(monkeypatch):
    """3 views of 16 rows of 19 bytes are 912; auto takes half of what is free at most, on takes all."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 1000, 1000))
    found, heard = opened()
    assert found is None
    assert "teacher: it is asked in every step: 3 views need 0.00 GB in" in heard.text
    assert opened("teacher.cache.use=on")[0] is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 900, 900))
    with pytest.raises(RecipeError, match=r"teacher.cache.use=on, but 3 views need"):
        opened("teacher.cache.use=on", "teacher.cache.folder=new")


def test_space_of_views_that_are_there_already_is_not_needed_again(monkeypatch):
    found, _ = opened()
    for view in range(3):
        found.folder.view(view)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 0))
    assert opened()[0] is not None
    assert opened("data.views=4")[0] is None


def test_folder_that_can_not_be_made_is_said_or_an_error():
    Path("file").write_text("in the way")
    found, heard = opened("teacher.cache.folder=file/inside")
    assert found is None
    assert "teacher: it is asked in every step: the teacher cache file/inside can't be used (Not a directory)" in heard.text
    with pytest.raises(DataError, match=r"the teacher cache file/inside can't be used \(Not a directory\); set teacher.cache.folder=FOLDER"):
        opened("teacher.cache.folder=file/inside", "teacher.cache.use=on")
    found, heard = opened("teacher.cache.folder=file")
    assert found is None
    assert "can't be used (File exists)" in heard.text


# ---------------------------------------------------------------- formats


def many(num_classes: int = 300) -> Synthetic:
    return Synthetic(num_train=600, num_val=300, num_test=300, num_classes=num_classes)


@pytest.mark.parametrize("loss", ["dkd", "dist"])
def test_topk_is_refused_by_label_for_losses_that_need_all_logits(loss):
    with pytest.raises(RecipeError, match=r"losses.mine needs all of the teacher's logits, and teacher.cache.format=topk keeps 3 of 4"):
        opened("teacher.cache.format=topk", "teacher.cache.top_k=3", f"losses.mine={{type: {loss}, weight: 1}}")


def test_topk_at_a_high_temperature_is_refused_with_the_measured_number():
    weights("teacher.safetensors", num_classes=300, factor=3)
    source = many()
    with pytest.raises(RecipeError) as raised:
        opened("teacher.cache.format=topk", "losses.kd.temperature=4", source=source)
    said = str(raised.value)
    assert said.startswith("teacher.cache.format=topk: at losses.kd's temperature 4 the kept answers differ from the teacher's by ")
    assert "(KL, the mean of 256 pictures), more than 0.001" in said
    number = float(said.split("differ from the teacher's by ")[1].split()[0])

    recipe = load_recipe("smoke", [*SMALL, "teacher.weights=teacher.safetensors"])
    device = torch.device("cpu")
    pieces = build_pieces(recipe, Catalogue(), source, device=device, precision="fp32", weights={"teacher": "teacher.safetensors"})
    live, kept_as = cache.some_answers(source, pieces.teacher).double(), logit_format("topk", 300)
    values, classes = live.topk(16, dim=1)  # the same by another way: what is left is shared evenly, without rounding
    left = live.exp().sum(dim=1, keepdim=True) - values.exp().sum(dim=1, keepdim=True)
    even = (left / 284).log().expand(-1, 300).scatter(1, classes, values)
    p, q = (answers.div(4).log_softmax(dim=1) for answers in (live, even))
    assert number == pytest.approx(float(kl_div(q, p, reduction="batchmean", log_target=True)), rel=0.05)
    assert number == pytest.approx(measured_kl(live.float(), kept_as, 4), rel=0.03)  # of which two digits are said
    assert not (Path("cache") / "answers").exists(), "a format that will not do leaves no folder"


def sure(source: Synthetic, monkeypatch, margin: float) -> None:
    """As if the teacher were sure: one class above all others, which differ little."""
    generator = torch.Generator().manual_seed(0)
    answers = 0.1 * torch.randn(256, 300, generator=generator)
    answers[range(256), range(256)] += margin
    monkeypatch.setattr(cache, "some_answers", lambda *_: answers)


@pytest.mark.parametrize("temperature", [1, 2])
def test_auto_keeps_many_classes_as_topk_where_that_does_not_matter(monkeypatch, temperature):
    weights("teacher.safetensors", num_classes=300)
    sure(source := many(), monkeypatch, 25)
    found, heard = opened(f"losses.kd.temperature={temperature}", source=source)
    assert found.folder.identity["format"] == "topk 16"
    assert found.folder.row_bytes == 16 * 3 + 8 + 11
    assert "not as" not in heard.text


def test_auto_keeps_many_classes_in_bf16_where_topk_is_too_coarse_and_says_so(monkeypatch):
    weights("teacher.safetensors", num_classes=300, factor=3)
    found, heard = opened("losses.kd.temperature=4", source=many())
    assert found.folder.identity["format"] == "bf16"
    assert "teacher cache: not as topk: at losses.kd's temperature 4 the kept answers differ" in heard.text
    assert [path.name for path in (Path("cache") / "answers").iterdir()] == [found.folder.path.name]


def test_auto_keeps_many_classes_in_bf16_for_losses_that_need_all_of_them(monkeypatch):
    weights("teacher.safetensors", num_classes=300)
    sure(source := many(), monkeypatch, 25)
    found, heard = opened("losses.kd.temperature=1", "losses.dist.weight=1", source=source)
    assert found.folder.identity["format"] == "bf16"
    assert "topk" not in heard.text


@pytest.mark.parametrize(("num_classes", "expected"), [(256, ["bf16"]), (257, ["topk", "bf16"])])
def test_up_to_256_classes_every_logit_is_kept(num_classes, expected):
    source = Synthetic(num_train=600, num_val=300, num_test=300, num_classes=num_classes)
    recipe = load_recipe("smoke", SMALL)
    pieces = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})
    assert formats(recipe, source, pieces, "fp32") == expected
    assert formats(recipe, source, pieces, "fp64") == [*expected[:-1], "fp64"]


def test_int8_that_rounds_too_much_at_the_lowest_of_the_temperatures_is_refused(monkeypatch):
    """A range of 100 in 255 steps is nothing at temperature 16, and off by up to 0.2 at 1."""
    generator = torch.Generator().manual_seed(0)
    answers = torch.rand(256, 4, generator=generator)
    answers[:, 3] -= 100
    monkeypatch.setattr(cache, "some_answers", lambda *_: answers)
    assert measured_kl(answers, logit_format("int8", 4), 16) < cache.MOST_KL < measured_kl(answers, logit_format("int8", 4), 1)
    assert opened("teacher.cache.format=int8", "losses.kd.temperature=16")[0] is not None
    schedule = "losses.kd.temperature={schedule: linear, start: 16, end: 1}"
    with pytest.raises(RecipeError, match=r"at losses.kd's temperature 1 the kept answers differ"):
        opened("teacher.cache.format=int8", schedule)


def test_format_is_refused_where_the_divergence_is_not_a_number(monkeypatch):
    monkeypatch.setattr(cache, "some_answers", lambda *_: torch.full((8, 4), torch.nan))
    with pytest.raises(RecipeError, match="by nan nats"):
        opened("teacher.cache.format=int8")


def test_temperatures_are_the_highest_and_the_lowest_of_each_loss():
    source = Synthetic(num_train=16, num_val=8, num_test=8)
    overrides = ["losses.kd.temperature={schedule: linear, start: 1, end: 5}", "losses.ctkd={weight: 1, max_temperature: 9}", "losses.dkd.weight=1"]
    recipe = load_recipe("smoke", [*SMALL, *overrides, "losses.dkd.temperature=3", "train.max_steps=null"])
    pieces = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})
    found: dict[str, list[float]] = {}
    for label, temperature in temperatures(recipe, source, pieces):
        found.setdefault(label, []).append(temperature)
    assert found["ctkd"] == [9, 1]
    assert found["kd"][0] == 5
    assert found["kd"][-1] == 1
    assert found["dkd"] == [3]
    assert "ce" not in found


def test_divergence_is_measured_as_by_hand():
    logits = torch.tensor([[0.0, 1.0, 5.0]])
    kept = logit_format("topk", 3, top_k=1)
    p = (logits[0].double() / 2).softmax(dim=0)
    even = torch.tensor([(1 + torch.e) / 2, (1 + torch.e) / 2, torch.e**5]).double().log()
    q = (even / 2).softmax(dim=0)
    assert measured_kl(logits, kept, 2) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)
