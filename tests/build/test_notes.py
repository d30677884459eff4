"""What is said of a recipe's losses before the run starts."""

from __future__ import annotations

import torch

from distill.build.notes import loss_notes, step_bytes
from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

SOURCE = Synthetic(num_train=64, num_val=8, num_test=8)


def notes(*overrides: str, num_processes: int = 1) -> list[str]:
    recipe = load_recipe("smoke", ["teacher.model=resnet34", "train.precision=fp32", *overrides])
    pieces = build_pieces(recipe, Catalogue(), SOURCE, device=torch.device("cpu"), precision="fp32", weights={})
    return loss_notes(pieces.distiller, recipe, SOURCE, num_processes)


def test_nothing_is_said_of_losses_without_surprises():
    assert notes("losses.rkd.weight=1", "losses.at.weight=1") == []


def test_memory_is_told_by_label_where_it_adds_half_of_the_steps(monkeypatch):
    monkeypatch.setattr(Catalogue().get("losses", "rkd"), "extra_bytes", lambda self, batch_size: 10**9 * batch_size)
    (note,) = notes("losses.relations={type: rkd, weight: 1}")
    assert "losses.relations needs about 8.0 GB more" in note
    assert "data.global_batch_size" in note


def test_coupled_losses_count_the_batch_of_all_processes_and_others_their_own(monkeypatch):
    seen = {}
    for name in ("rkd", "at"):
        monkeypatch.setattr(Catalogue().get("losses", name), "extra_bytes", lambda self, batch_size, name=name: seen.update({name: batch_size}) or 0)
    notes("losses.rkd.weight=1", "losses.at.weight=1", "data.global_batch_size=32", "train.accumulation=2", num_processes=4)
    assert seen == {"rkd": 16, "at": 4}


def test_what_a_batch_is_under_accumulation_is_told():
    (note,) = notes("losses.sp.weight=1", "train.accumulation=2")
    assert "losses.sp" in note
    assert "4 of all processes together" in note
    assert notes("losses.at.weight=1", "train.accumulation=2") == []


def test_memory_of_a_step_grows_with_the_batch_from_the_weights_up():
    recipe = load_recipe("smoke", ["teacher=null", "losses.kd=null", "train.precision=fp32"])
    pieces = build_pieces(recipe, Catalogue(), SOURCE, device=torch.device("cpu"), precision="fp32", weights={})
    weights = 12 * sum(parameter.numel() for parameter in pieces.distiller.student.parameters())
    one, two, four = (step_bytes(pieces.distiller, 32, size) - weights for size in (1, 2, 4))
    assert 0 < one < two
    assert four == 2 * two
    # what batch norm keeps, the outputs of the convolutions, of maps of 16, 8, 4, 2 and 1 pixels a side
    assert two / 2 > 4 * (64 * 256 + 4 * 64 * 64 + 5 * 128 * 16 + 5 * 256 * 4 + 5 * 512)


def extra_bytes(name: str, num_train: int = 64):
    source = Synthetic(num_train=num_train, num_val=8, num_test=8)
    recipe = load_recipe("smoke", [f"losses.{name}.weight=1", "train.precision=fp32", "teacher.model=resnet34"])
    pieces = build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})
    return pieces.distiller.losses[name].extra_bytes


def test_angles_of_rkd_at_batch_1024_are_said_to_need_gigabytes():
    # a tensor [1024, 1024, 1024] of float32 is 4.3 GB, and the backward keeps more than one
    assert extra_bytes("rkd")(1024) > 2**32
    assert extra_bytes("rkd")(64) < 2**26


def test_memory_of_crd_grows_with_the_pictures_and_with_the_batch():
    few, many = extra_bytes("crd", num_train=64), extra_bytes("crd", num_train=640)
    # two banks [pictures, 128] of float32, read and written
    assert many(8) - few(8) > 2 * (640 - 64) * 128 * 4
    assert many(80) > many(8)


def test_at_imagenets_size_the_two_heavy_losses_say_so_before_anything_starts(monkeypatch):
    """RKD's angles at batch 1024, and CRD's banks of 1.28 million pictures at batch 256: each adds half of the step's memory or more."""
    pictures = Synthetic(image_size=224, num_train=1024, num_val=8, num_test=8)
    recipe = load_recipe("smoke", ["losses.rkd.weight=1", "losses.crd.weight=1", "data.global_batch_size=1024", "train.precision=fp32"])
    pieces = build_pieces(recipe, Catalogue(), pictures, device=torch.device("cpu"), precision="fp32", weights={})
    (note,) = loss_notes(pieces.distiller, recipe, pictures, 1)
    assert note.startswith("losses.rkd needs about 38.7 GB more")
    monkeypatch.setattr(pieces.distiller.losses["crd"].pictures, "num", 1_281_167)  # the banks themselves would be 1.3 GB here
    smaller = load_recipe("smoke", ["losses.rkd.weight=1", "losses.crd.weight=1", "data.global_batch_size=256", "train.precision=fp32"])
    (note,) = loss_notes(pieces.distiller, smaller, pictures, 1)
    assert note.startswith("losses.crd needs about")
