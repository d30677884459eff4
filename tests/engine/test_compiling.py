"""Compiling: what is compiled answers the same and leaves no trace, and what can't be compiled stays as it was."""

from __future__ import annotations

import pytest
import torch

from distill.build.batches import made_up_batch
from distill.build.pieces import build_pieces, rehearse
from distill.data.sources.synthetic import Synthetic
from distill.engine.compiling import Compiled, compile_distiller, compile_teacher, pictures_to_pay
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

CPU = torch.device("cpu")
SOURCE = Synthetic(image_size=32, num_classes=10, num_train=16, num_val=10, num_test=10)
OPTIONS = ["teacher.model=timm/test_resnet", "student.model=timm/test_resnet", "teacher.weights=random", "data.source=synthetic"]
OPTIONS += ["losses.crd={weight: 0.1, num_negatives: 4, dim: 8}", "data.global_batch_size=4"]


@pytest.fixture
def quick(monkeypatch):
    """torch.compile as ever, but for the last part: the graph is run as it was written down, and nothing is translated."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic, options=None, **_: compile_(model, dynamic=dynamic, backend="eager"))


@pytest.fixture
def broken(monkeypatch):
    def backend(*_):
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic, options=None, **_: compile_(model, dynamic=dynamic, backend=backend))


def made():
    torch._dynamo.reset()
    pieces = build_pieces(load_recipe("r50_to_r18", OPTIONS), Catalogue(), SOURCE, device=CPU, precision="fp32", weights={})
    rehearse(pieces, SOURCE)
    return pieces, made_up_batch(SOURCE, 4, CPU)


def test_compiled_teacher_answers_the_same_with_its_features(quick):
    pieces, batch = made()
    before = pieces.teacher(batch)
    found = compile_teacher(pieces.teacher, batch)
    assert pieces.teacher.answer is not pieces.teacher.network
    after = pieces.teacher(batch)
    assert torch.allclose(after.logits, before.logits, atol=1e-5)
    assert after.features.keys() == before.features.keys() == {"pooled"}
    assert torch.allclose(after.features["pooled"], before.features["pooled"], atol=1e-5)
    assert found.seconds_to_compile > 0


def test_trying_the_distiller_leaves_weights_statistics_and_banks(quick):
    pieces, batch = made()
    before = {name: tensor.clone() for name, tensor in pieces.distiller.state_dict().items()}
    answers = pieces.teacher(batch)
    compile_distiller(pieces.distiller, batch, answers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pieces.distiller.state_dict().items())
    assert any("running_mean" in name for name in before)
    assert all(parameter.grad is None for parameter in pieces.distiller.parameters())
    compiled = pieces.distiller(batch, answers).loss
    pieces.distiller.load_state_dict(before)
    pieces.distiller._compiled_call_impl = None
    assert torch.allclose(pieces.distiller(batch, answers).loss, compiled, rtol=1e-5)


def test_what_cant_be_compiled_stays_as_it_was(broken):
    pieces, batch = made()
    answers = pieces.teacher(batch)
    with pytest.raises(Exception, match="no compiler here"):
        compile_teacher(pieces.teacher, batch)
    assert torch.equal(pieces.teacher(batch).logits, answers.logits)
    with pytest.raises(Exception, match="no compiler here"):
        compile_distiller(pieces.distiller, batch, answers)
    assert pieces.distiller(batch, answers).loss.isfinite()


def test_break_even_worked_by_hand():
    """60 s, and 2 ms saved on each picture."""
    assert pictures_to_pay(60.0, 0.005, 0.003) == pytest.approx(30_000)
    assert Compiled(60.0, 0.005, 0.003).break_even == pytest.approx(30_000)
    assert Compiled(60.0, 0.005, 0.005).break_even == float("inf")


@pytest.mark.slow
def test_compilers_own_code_answers_the_same():
    """All the way through inductor, which writes C++ and has it compiled."""
    pieces, batch = made()
    answers = pieces.teacher(batch)
    compile_teacher(pieces.teacher, batch)
    assert torch.allclose(pieces.teacher(batch).logits, answers.logits, atol=1e-4)
    expected = pieces.distiller.eval()(batch, answers).loss
    compile_distiller(pieces.distiller, batch, answers)
    assert torch.allclose(pieces.distiller(batch, answers).loss, expected, rtol=1e-4)
