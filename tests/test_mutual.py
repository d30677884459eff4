"""Mutual learning: two students, each of which is the other's teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from runs import EVERYTHING, SMALL, Killed, contents, kill_at, metrics
from safetensors.torch import load_file

from distill.build.pieces import Pieces, build_pieces, peer_of
from distill.data.sources.synthetic import Synthetic
from distill.engine.methods.mutual import MutualDistiller
from distill.engine.trainer import Trainer
from distill.errors import RecipeError
from distill.models.zoo import create_model
from distill.recipe import Recipe, what_is_wrong
from distill.recipe_files import fingerprint, load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch
from distill.student_alone import control_recipe, is_alone

MUTUAL = ["student.model=timm/test_resnet", "~teacher", "method=mutual", "peer={model: timm/test_resnet}"]


def made(*overrides: str) -> Pieces:
    recipe, source = load_recipe("smoke", [*MUTUAL, *overrides]), Synthetic(num_train=64, num_val=9, num_test=9)
    return build_pieces(recipe, Catalogue(), source, device=torch.device("cpu"), precision="fp32", weights={})


def pictures(num: int = 4) -> Batch:
    ids = torch.arange(num)
    images = torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, ids, ids, ids)


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_each_student_gets_the_gradient_of_learning_from_the_other_as_it_is():
    pieces, batch = made("losses.at.weight=10", "losses.kd.weight={schedule: linear, start: 0.25, end: 1}"), pictures()
    distiller, ours, theirs = pieces.distiller.eval(), pieces.distiller.student, peer_of(pieces)
    assert isinstance(distiller, MutualDistiller)
    output = distiller(batch, None)
    assert set(output.terms) == {"ce", "kd", "at", "peer.ce", "peer.kd", "peer.at"} == set(distiller.labels)
    output.loss.backward()
    found = gradients(ours), gradients(theirs)
    for network, other, own, learned in ((ours, theirs, distiller, found[0]), (theirs, ours, distiller.peer, found[1])):
        distiller.zero_grad()
        with torch.no_grad():
            answers = other(batch.images)
        terms = own.terms_of(network(batch.images), answers, batch)
        (0.5 * terms["ce"] + 0.25 * terms["kd"] + 10 * terms["at"]).backward()
        for name, gradient in gradients(network).items():
            torch.testing.assert_close(learned[name], gradient)


def test_students_of_the_same_model_begin_with_other_weights_and_the_first_with_those_it_has_alone():
    pieces = made()
    ours, theirs = pieces.distiller.student.model.state_dict(), peer_of(pieces).model.state_dict()
    assert not torch.equal(ours["conv1.0.weight"], theirs["conv1.0.weight"])
    alone = build_pieces(load_recipe("smoke", MUTUAL[:1]), Catalogue(), Synthetic(), device=torch.device("cpu"), precision="fp32", weights={})
    assert all(torch.equal(value, ours[name]) for name, value in alone.distiller.student.model.state_dict().items())


def test_first_student_is_the_student_alone_where_it_does_not_listen(distill):
    """Cross-entropy alone counts: what the peer does must not change a bit."""
    code, _, err = distill("train", "--recipe", "smoke", *MUTUAL, "losses.ce.weight=1", "losses.kd.weight=0", "run_name=run")
    assert code == 0, err
    ours, theirs = (load_file(f"runs/{name}/student.safetensors") for name in ("run", "run-alone"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_job_scores_and_keeps_both(distill):
    code, out, err = distill("train", "--recipe", "smoke", *MUTUAL[:3], "peer={model: resnet18}", "train.ema_decay=0.5", "run_name=run")
    assert code == 0, err
    assert "together with resnet18: each learns from the other" in err
    assert "it and its peer learned from each other" in " ".join(out.split())
    found = json.loads(Path("runs/run/summary.json").read_text())
    assert (found["method"], found["peer"]["model"], found["alone"]["run"]) == ("mutual", "resnet18", "run-alone")
    assert "teacher" not in found
    create_model("resnet18", num_classes=4).load_state_dict(load_file("runs/run/peer.safetensors"), strict=True)
    train, epoch = metrics("runs/run")[0], metrics("runs/run")[-1]
    assert {"ce", "kd", "peer.ce", "peer.kd"} <= set(train)
    assert epoch["peer_val_top1"] == found["peer"]["val_top1"]
    code, _, err = distill("eval", "runs/run", "--role", "teacher")
    assert code == 2
    assert "peer.safetensors" in err
    code, out, err = distill("eval", "runs/run/peer.safetensors", "--recipe", "smoke", "--json")
    assert code == 0, err
    assert json.loads(out)["targets"][0]["top1"] == found["peer"]["test_top1"]


@pytest.mark.parametrize("step", [7, 13])
def test_run_killed_and_gone_on_with_is_the_run_that_was_not(step, distill, monkeypatch):
    small = [word for word in SMALL if not word.startswith(("teacher.", "student."))]
    everything = [word.replace("auto(0.5)", "0.5") for word in EVERYTHING]
    arguments = [*small, *MUTUAL, *everything, "train.max_steps=14", "peer.arguments={drop_rate: 0.3}"]
    assert distill("train", *arguments, "run_name=whole")[0] == 0
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *arguments, "run_name=cut", "train.checkpoint_every_steps=1")
    code, _, err = distill("train", "--resume", "runs/cut")
    assert code == 0, err
    assert f"going on from step-{step - 1:08d}" in err
    assert contents("runs/cut") == contents("runs/whole")
    assert Path("runs/cut/peer.safetensors").read_bytes() == Path("runs/whole/peer.safetensors").read_bytes()


def test_doctor_looks_at_both(distill):
    code, out, err = distill("doctor", "smoke", *MUTUAL, "--json")
    assert code == 0, err
    assert [row["term"] for row in json.loads(out)["terms"]] == ["ce", "kd"]


def test_loss_that_the_peer_can_not_serve_is_named():
    with pytest.raises(RecipeError, match=r"losses.fitnet: peer timm/test_efficientnet: "):
        made("peer.model=timm/test_efficientnet", "losses.fitnet={weight: 1, layers: [layer2.0]}")  # a block by its path


# what a recipe says


def recipe(**more) -> Recipe:
    values = {"student": {"model": "resnet18"}, "losses": {"ce": {}, "kd": {}}, "data": {}, "train": {"epochs": 10, "lr": 0.1}}
    return Recipe.model_validate(values | {"method": "mutual", "peer": {"model": "resnet34"}} | more)


def test_student_alone_is_that_of_any_other_method():
    assert is_alone(control_recipe(recipe()))
    assert not is_alone(recipe(losses={"ce": {}}))
    teacher = {"teacher": {"model": "a", "weights": "b"}}
    assert fingerprint(control_recipe(recipe())) == fingerprint(control_recipe(recipe(method="distill", peer=None, **teacher)))


FAULTS = [
    ({"peer": None}, "needs a peer, such as peer={model: resnet34}"),
    ({"method": "distill"}, "has no use for a peer; set method=mutual"),
    ({"teacher": {"model": "a", "weights": "b"}}, "has the student learn from its peer; leave out teacher"),
    ({"losses": {"ce": {}, "kd": {"weight": "auto(1)"}}}, "give losses.kd.weight a number"),
]


@pytest.mark.parametrize("change, words", FAULTS)
def test_senseless_recipe_is_refused_in_plain_words(change, words):
    with pytest.raises(ValidationError) as caught:
        recipe(**change)
    assert words in dict(what_is_wrong(caught.value))[("method",)]
