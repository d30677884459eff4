"""Every loss that is shipped keeps the contract of losses, with its default arguments and with others that take another way through its code."""

from __future__ import annotations

import pytest

from distill.losses.base import DistillLoss
from distill.resolve import Catalogue
from distill.testing import check_loss
from distill.testing.needs import check_all_logits, check_labels, check_sample_ids
from distill.testing.subject import Subject
from distill.testing.synthetic import change

VARIANTS = {
    "cat_kd": [{"normalise": False, "grid": 1}, {"layer": "last"}],
    "cc": [{"kernel": "bilinear"}],
    "ce": [{"label_smoothing": 0.1}],
    "crd": [{"num_negatives": 4, "dim": 8, "momentum": 0.0}],
    "ctkd": [{"standardise": True}],
    "dist": [{"temperature": 4.0, "gamma": 0.0}],
    "dkd": [{"standardise": True}, {"temperature": 1.0, "beta": 0.5}],
    "fitnet": [{"layers": ["layer2", "pooled", "layer3.0.conv2"]}],
    "ft": [{"kernel_size": 1, "layers": ["layer2", "layer3"]}],
    "ickd": [{"layers": ["layer1", "layer4"]}],
    "js": [{"temperature": 4.0}],
    "kd": [{"standardise": True}, {"temperature": 1.0}],
    "mgd": [{"mask_ratio": 0.0}, {"layers": ["layer3", "layer4"], "mask_ratio": 0.5}],
    "nst": [{"layers": ["layer1", "layer3"]}],
    "pefd": [{"num_projectors": 1}],
    "pkt": [{"layers": ["layer3", "pooled"]}],
    "reviewkd": [{"layers": ["layer3", "layer4"], "mid_channels": 8}],
    "rkd": [{"angles": 0.0}, {"distances": 0.0}],
    "sdd": [{"scales": [1]}, {"scales": [2], "temperature": 1.0}],
    "sp": [{"layers": ["layer2", "pooled"]}],
    "srrl": [{"beta": 0.0}],
    "tfkd": [{"correct_probability": 0.9, "temperature": 1.0}],
    "vid": [{"layers": ["pooled"]}],
    "wkd_f": [{"layers": ["layer1", "layer3"], "grid": 2}],
    "wkd_l": [{"iterations": 3, "temperature": 8.0}],
}
CATALOGUE = Catalogue()
CASES = [(name, arguments) for name in CATALOGUE.names("losses") for arguments in ({}, *VARIANTS.get(name, []))]


EACH = pytest.mark.parametrize("name,arguments", CASES, ids=[f"{name}-{arguments}" if arguments else name for name, arguments in CASES])


@EACH
def test_every_loss_keeps_the_contract(name, arguments):
    check_loss(CATALOGUE.get("losses", name), **arguments)


def test_every_variant_is_of_a_loss_that_there_is():
    assert set(VARIANTS) <= set(CATALOGUE.names("losses"))


# What each says that it needs

LOOK_AT_IDS = {"crd", "mgd"}
LOOK_AT_LABELS = {"ce", "crd", "dkd", "nkd", "rld", "tfkd", "wkd_l", "wsld"}
LEAVE_OUT_WHAT_NEEDS_ALL_LOGITS = [("srrl", {"beta": 0.0}), ("dist", {"temperature": 4.0, "gamma": 0.0})]


def test_the_losses_whose_equation_has_a_label_or_a_class_of_the_data_say_that_they_need_labels():
    assert {name for name in CATALOGUE.names("losses") if CATALOGUE.get("losses", name).needs_labels} == LOOK_AT_LABELS


def test_the_losses_that_draw_numbers_or_remember_pictures_say_that_they_need_their_ids():
    assert {name for name in CATALOGUE.names("losses") if CATALOGUE.get("losses", name).needs_sample_ids} == LOOK_AT_IDS
    for name in LOOK_AT_IDS:
        assert list(check_sample_ids(Subject(_denying(CATALOGUE.get("losses", name), "needs_sample_ids"), {})))


@EACH
def test_what_looks_at_no_logit_of_the_teacher_does_without_most_of_them(name, arguments):
    subject = Subject(CATALOGUE.get("losses", name), arguments)
    others = change(subject.case, ["teacher"], logits=lambda logits: logits.roll(1, dims=1))
    if subject.value(others) == subject.value():
        assert not subject.cls.needs_all_logits or name == "srrl"  # that looks at them unless beta is 0
    else:
        assert subject.loss().needs_all_logits is not (name == "js" or (name == "kd" and "standardise" not in arguments))


def test_kd_needs_all_logits_only_where_it_standardises_them():
    cls = CATALOGUE.get("losses", "kd")
    assert [cls(standardise=is_standardised).needs_all_logits for is_standardised in (False, True)] == [False, True]


@EACH
def test_a_loss_that_denied_its_need_would_be_found(name, arguments):
    cls = CATALOGUE.get("losses", name)
    assert bool(list(check_labels(Subject(_denying(cls, "needs_labels"), arguments)))) is cls.needs_labels
    needs_all = Subject(cls, arguments).loss().needs_all_logits and (name, arguments) not in LEAVE_OUT_WHAT_NEEDS_ALL_LOGITS
    assert bool(list(check_all_logits(Subject(_denying(cls, "needs_all_logits"), arguments)))) is needs_all


def _denying(cls: type[DistillLoss], flag: str) -> type[DistillLoss]:
    class Denying(cls):
        def __setattr__(self, name, value):
            super().__setattr__(name, value if name != flag else False)

    setattr(Denying, flag, False)
    return Denying
