"""A teacher of other classes: matched by name or refused, and cut exactly."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from distill.errors import RecipeError
from distill.models.about_weights import about_weights, imagenet_names
from distill.models.classes import keep_classes, match_classes
from distill.models.resnet import resnet18

KNOWN = (("n01", "tench", "Tinca tinca"), ("n02", "gold_fish"), ("n03", "crane"), ("n04", "crane"))


def test_names_are_matched_whatever_their_order_case_and_spaces():
    assert match_classes(["Gold-fish", "n01"], KNOWN, {}) == [1, 0]
    assert match_classes(["tinca  TINCA", "goldfish"], KNOWN, {"goldfish": "gold fish"}) == [0, 1]


def test_the_teachers_own_classes_in_order_need_no_cut():
    assert match_classes(["n01", "gold fish", "n03", "n04"], KNOWN, {}) is None
    assert match_classes(["n02", "n01", "n03", "n04"], KNOWN, {}) == [1, 0, 2, 3]


@pytest.mark.parametrize(
    "wanted, renamed, message",
    [
        (["tench", "golfish"], {}, "of the data's 2 classes it does not know 1: golfish; did you mean 'gold fish'"),
        (["tench", "crane"], {}, "class 'crane' is one of several that it knows, n03 or n04"),
        (["tench", "n01"], {}, "'tench' and 'n01' are one class for it"),
        (["tench"], {"tensh": "n01"}, "the data has no class 'tensh'; did you mean 'tench'"),
        (["tench"], {"tench": "no such"}, "does not know 1: tench"),
    ],
)
def test_what_is_not_certain_is_refused(wanted, renamed, message):
    with pytest.raises(RecipeError, match=message):
        match_classes(wanted, KNOWN, renamed)


def test_an_ambiguous_class_can_be_named():
    assert match_classes(["crane"], KNOWN, {"crane": "n04"}) == [3]


def test_imagenettes_folders_are_classes_of_imagenet():
    folders = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777", "n03888257"]
    places = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # Imagenette's page
    assert match_classes(folders, imagenet_names(), {}) == places
    words = "tench/English springer/cassette player/chain saw/church/French horn/garbage truck/gas pump/golf ball/parachute"
    assert match_classes(words.split("/"), imagenet_names(), {}) == places


def deit() -> nn.Module:
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=6, img_size=32)


@pytest.mark.parametrize("build", [lambda: resnet18(num_classes=6), lambda: timm.create_model("test_vit", num_classes=6, img_size=32), deit])
def test_the_cut_classifier_gives_those_answers(build):
    torch.manual_seed(0)
    model = build().eval()
    whole = copy.deepcopy(model)
    state = torch.random.get_rng_state()
    keep_classes(model.train(), [4, 1, 3], 32)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(images), whole(images)[:, [4, 1, 3]])


class _Twice(nn.Module):
    """Answers that its last layer gives a part of only."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 6)

    def forward(self, images):
        return self.last(self.first(images.mean((2, 3)))).softmax(dim=1)


def test_a_network_that_goes_on_behind_its_classifier_can_not_be_cut():
    with pytest.raises(RecipeError, match="do not come from its layer last alone"):
        keep_classes(_Twice(), [4, 1], 32)


def test_more_classes_are_named_than_there_are_answers():
    with pytest.raises(RecipeError, match="gives 6 answers, and 10 classes are named"):
        keep_classes(resnet18(num_classes=6), [2, 9], 32)


def test_published_weights_say_how_pictures_are_made_and_what_they_know_without_being_downloaded():
    about = about_weights("torchvision:IMAGENET1K_V2", "resnet50")
    assert (about.mean, about.std, about.image_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
    assert about.class_names[0] == ("n01440764", "tench, Tinca tinca", "tench", "Tinca tinca")
    about = about_weights("timm:vit_base_patch16_224.augreg_in1k", "timm/vit_base_patch16_224")
    assert (about.mean, about.std) == ((0.5,) * 3, (0.5,) * 3)
    assert len(about.class_names) == 1000
    assert about_weights("timm:vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224").class_names is None
    assert about_weights("some/file.pth", "resnet50").mean is None
    for weights in ("torchvision:IMAGENET9", "timm:no_such_network"):
        with pytest.raises(RecipeError, match="do not exist"):
            about_weights(weights, "resnet50")
