"""Every loss that is shipped keeps the contract of losses, with its default arguments and with others that take another way through its code."""

from __future__ import annotations

import pytest

from distill.resolve import Catalogue
from distill.testing import check_loss

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


@pytest.mark.parametrize("name,arguments", CASES, ids=[f"{name}-{arguments}" if arguments else name for name, arguments in CASES])
def test_every_loss_keeps_the_contract(name, arguments):
    check_loss(CATALOGUE.get("losses", name), **arguments)


def test_every_variant_is_of_a_loss_that_there_is():
    assert set(VARIANTS) <= set(CATALOGUE.names("losses"))
