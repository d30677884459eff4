"""From a recipe to loaders: which keys become what, and who reads the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from distill.build.loaders import evaluation_loader, make_views, num_views, training_loader
from distill.data.mixing import Mixing
from distill.data.sources.base import Part
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.runtime import make_accelerator
from distill.recipe import Augment
from distill.recipe_files import load_recipe

SOURCE = Synthetic(num_train=64, num_val=8, num_test=8)


def recipe(*overrides: str):
    return load_recipe("smoke", list(overrides))


def in_files() -> Synthetic:
    source = Synthetic(num_train=64, num_val=8, num_test=8)
    source.train, source.val = (Part(part.labels, part.sample_ids, read=part.pixels.__getitem__) for part in (source.train, source.val))
    return source


def test_every_key_of_augment_reaches_the_views():
    values = {"crop": "random_resized", "padding": 3, "scale": (0.2, 0.9), "ratio": (0.8, 1.2), "flip": 0.4, "auto": "rand", "num_ops": 3}
    values |= {"magnitude": 11, "brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05, "erase": 0.6, "erase_scale": (0.05, 0.2)}
    mixing = {"mixup": 0.7, "cutmix": 0.9, "mix": 0.35}
    assert set(values) | set(mixing) == set(Augment.model_fields)
    given = [f"data.augment.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in (values | mixing).items()]
    expected = Views(size=32, **values, fill=(128, 128, 128), mixing=Mixing(0.7, 0.9, 0.35))  # the source's mean is 0.5
    assert make_views(recipe(*given), SOURCE) == expected


def test_without_new_keys_nothing_new_is_done():
    views = make_views(recipe(), SOURCE)
    assert not views.mixes
    assert not views.one_by_one
    assert (views.brightness, views.contrast, views.saturation, views.hue, views.erase) == (0.0,) * 5


@pytest.mark.parametrize("augment, mixes", [("{mixup: 0.2}", True), ("{cutmix: 1}", True), ("{mixup: 0.2, mix: 0}", False), ("{mix: 1}", False)])
def test_mixing_is_on_where_it_has_an_alpha_and_a_share(augment, mixes):
    assert make_views(recipe(f"data.augment={augment}"), SOURCE).mixes == mixes


def test_one_for_each_epoch_unless_views_says_otherwise():
    assert num_views(recipe("train.epochs=7")) == 7
    assert num_views(recipe("train.epochs=7", "data.views=3")) == 3


@pytest.mark.parametrize(
    "source, overrides, num_workers",
    [
        (SOURCE, ["data.workers=3"], None),  # resident: augmented on the device
        (SOURCE, ["data.workers=3", "data.augment.auto=trivial"], 3),
        (SOURCE, ["data.workers=0", "data.augment.auto=rand"], 0),
        (in_files(), ["data.workers=3"], 3),
        (in_files(), ["data.workers=0"], 0),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_workers_read_what_is_not_resident_or_is_varied_one_by_one(source, overrides, num_workers):
    loading = training_loader(recipe(*overrides), source, accelerator=make_accelerator())
    assert (loading._workers._loader.num_workers if loading._workers else None) == num_workers


@pytest.mark.parametrize("auto", ["none", "trivial"])
def test_evaluation_of_resident_pictures_needs_no_workers(auto):
    assert evaluation_loader(recipe("data.workers=3", f"data.augment.auto={auto}"), SOURCE, SOURCE.val, make_accelerator()).workers == 0


def test_automatic_workers_are_those_of_the_cores(monkeypatch):
    from distill.build import loaders

    for cores, expected in ((1, 1), (5, 5), (64, 8)):
        monkeypatch.setattr(loaders, "cores_per_process", lambda cores=cores: cores)
        assert evaluation_loader(recipe(), in_files(), in_files().val, make_accelerator()).workers == expected


def test_bad_pictures_and_labels_are_as_the_recipe_says():
    said, accelerator = [], make_accelerator()
    strict = training_loader(recipe(), SOURCE, accelerator=accelerator)
    assert strict.bad_pictures is None
    assert strict.has_labels
    lenient = training_loader(
        recipe("data.on_bad_image=skip", "data.labels=none", "losses.ce=null", "control=false"), SOURCE, accelerator=accelerator, warn=said.append
    )
    assert not lenient.has_labels
    lenient.bad_pictures.note([])
    assert said == []
    assert evaluation_loader(recipe("data.on_bad_image=skip"), SOURCE, SOURCE.val, accelerator).bad_pictures is not None
    assert evaluation_loader(recipe(), SOURCE, SOURCE.val, accelerator).bad_pictures is None


def test_mixed_labels_have_as_many_columns_as_there_are_classes():
    batch = next(training_loader(recipe("data.augment.mixup=1"), SOURCE, accelerator=make_accelerator()).epoch(0))
    assert batch.labels.shape == (8, 4)
    assert np.allclose(batch.labels.sum(dim=1), 1)
