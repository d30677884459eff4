"""A Distiller in somebody's own loop: the same step as the framework's and as one written by hand, one module for what wraps it, clear refusals."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill import DistillLoss, create_model, make_distiller
from distill.build.pieces import build_pieces
from distill.data.sources.base import IMAGENET_MEAN, IMAGENET_STD
from distill.data.sources.synthetic import Synthetic
from distill.errors import DataError, RecipeError
from distill.losses.fitnet import FitNet
from distill.losses.kd import KD
from distill.losses.mgd import MGD
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch

SIZE, NUM_CLASSES = 32, 4
SOURCE = Synthetic(num_train=64, num_val=8, num_test=8, num_classes=NUM_CLASSES, image_size=SIZE)
FRAMEWORK = ["teacher.model=resnet34", "train.precision=fp32", "train.channels_last=false", "seed=3", "losses.hint={type: fitnet, weight: 2}"]


def network(name: str = "resnet18", num_classes: int = NUM_CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes)


class Small(nn.Module):
    """The least that can be distilled, for what does not depend on the network."""

    def __init__(self, width: int, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.layer4, self.relu, self.fc = nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.relu(self.layer4(images)).mean(dim=(2, 3)))


def small(losses=None, teacher: nn.Module | None = None, **options):
    return make_distiller(Small(4), teacher or Small(8), losses or {"ce": 1.0, "kd": 1.0}, image_size=SIZE, **options)


def pixels(num: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 pictures, their labels and ids."""
    return SOURCE.train.pixels[:num].clone(), *(torch.from_numpy(values[:num]) for values in (SOURCE.train.labels, SOURCE.train.sample_ids))


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As a plain loop does it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


def floats(num: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = pixels(num)
    return normalised(images), labels


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def require_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert gradient.norm() > 0 or theirs[name].norm() == 0
        assert (gradient - theirs[name]).norm() <= 1e-6 * max(theirs[name].norm(), 1.0), name


# The same step as others


@pytest.fixture(scope="module")
def framework():
    """(student, teacher) as they were, what the framework's own step gave for pixels(), and its gradients."""
    recipe = load_recipe("smoke", FRAMEWORK)
    pieces = build_pieces(recipe, Catalogue(), SOURCE, device=torch.device("cpu"), precision="fp32", weights={})
    networks = [copy.deepcopy(pieces.distiller.student.model), copy.deepcopy(pieces.teacher.network.model)]
    for model in networks:
        for module in model.modules():
            module._forward_hooks.clear()
    images, labels, ids = pixels()
    batch = Batch(images, labels, ids, torch.zeros_like(ids))
    output = pieces.distiller.train()(batch, pieces.teacher(batch))
    output.loss.backward()
    return recipe, networks, output, gradients(pieces.distiller)


@pytest.mark.parametrize("form", ["uint8", "normalised"])
def test_step_is_the_frameworks_own(framework, form):
    recipe, networks, theirs, their_gradients = framework
    student, teacher = map(copy.deepcopy, networks)
    given = {"mean": SOURCE.mean, "std": SOURCE.std} if form == "uint8" else {}
    losses = {label: recipe.losses[label].weight for label in ("ce", "kd")} | {"hint": (2.0, FitNet())}
    losses = {label: losses[label] for label in recipe.losses}
    distiller = make_distiller(student, teacher, losses, image_size=SIZE, seed=recipe.seed, **given).train()
    images, labels, _ = pixels()
    if form == "normalised":
        images = (images.float() - 255 * torch.tensor(SOURCE.mean).view(1, 3, 1, 1)) * (1 / (255 * torch.tensor(SOURCE.std).view(1, 3, 1, 1)))
    output = distiller(images, labels)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert {label: term.item() for label, term in output.terms.items()} == pytest.approx({k: v.item() for k, v in theirs.terms.items()}, rel=1e-6)
    require_equal(gradients(distiller), their_gradients)


def test_step_is_one_that_is_written_by_hand():
    student, teacher = network(), network("resnet34")
    by_hand = copy.deepcopy(student).train()
    distiller = make_distiller(student, teacher, {"ce": 0.3, "kd": (0.7, KD(temperature=4))}, image_size=SIZE).train()
    images, labels = floats()
    output = distiller(images, labels)
    output.loss.backward()

    with torch.no_grad():
        theirs = (teacher(images) / 4).softmax(dim=1)
    logits = by_hand(images)
    divergence = (theirs * (theirs.log() - (logits / 4).log_softmax(dim=1))).sum(dim=1).mean()
    loss = 0.3 * F.cross_entropy(logits, labels) + 0.7 * 16 * divergence
    loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(output.logits, logits, atol=1e-6)
    require_equal(gradients(student), gradients(by_hand))


def test_teacher_sees_uint8_pictures_in_its_own_normalisation():
    teacher = Small(8)
    distiller = small(teacher=teacher, mean=IMAGENET_MEAN, std=IMAGENET_STD, teacher_mean=(0.5,) * 3, teacher_std=(0.5,) * 3)
    images, labels, ids = pixels()
    answers = distiller.teacher(Batch(images, labels, ids, ids)).logits
    assert torch.allclose(answers, teacher(images / 127.5 - 1), atol=1e-5)
    assert torch.allclose(distiller(images, labels).logits, distiller.student.model(normalised(images)), atol=1e-5)


# One module, and the teacher no part of it


def test_parameters_and_state_are_the_students_and_the_losses_own():
    student, teacher = Small(4), Small(8)
    distiller = make_distiller(student, teacher, {"hint": FitNet(layers=["layer4"])}, image_size=SIZE)
    own = {id(parameter) for parameter in distiller.parameters()}
    assert {id(parameter) for parameter in student.parameters()} < own
    assert own.isdisjoint(id(parameter) for parameter in teacher.parameters())
    keys = {f"student.model.{name}" for name in student.state_dict()}
    assert {key for key in distiller.state_dict() if not key.startswith("losses.hint.projectors.")} == keys
    assert len(distiller.state_dict()) > len(keys)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    distiller.train()
    assert student.training
    assert not any(module.training for module in teacher.modules())


def test_optimizer_trains_student_and_projector_and_not_the_teacher():
    teacher = Small(8)
    distiller = small({"ce": 1.0, "hint": FitNet(layers=["layer4"])}, teacher)
    before, fixed = copy.deepcopy(distiller.state_dict()), copy.deepcopy(teacher.state_dict())
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    first = distiller(*floats()).loss
    for _ in range(5):
        optimizer.zero_grad()
        distiller(*floats()).loss.backward()
        optimizer.step()
    assert distiller(*floats()).loss < first
    after = distiller.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name, _ in distiller.named_parameters())
    assert all(torch.equal(value, fixed[name]) for name, value in teacher.state_dict().items())


def test_state_that_is_loaded_goes_on_where_it_was_saved():
    first, second = small({"kd": 1.0, "hint": FitNet(layers=["layer4"])}), small({"kd": 1.0, "hint": FitNet(layers=["layer4"])}, seed=1)
    second.teacher = first.teacher
    second.load_state_dict(first.state_dict())
    assert second(*floats()).loss.item() == first(*floats()).loss.item()


def test_to_takes_the_teacher_along():
    distiller = small()
    distiller.to(torch.float64)
    assert next(distiller.teacher.network.parameters()).dtype == torch.float64
    images, labels = floats()
    assert distiller(images.double(), labels).loss.dtype == torch.float64
    assert next(distiller.to("meta").teacher.network.parameters()).device.type == "meta"


def test_autocast_around_it_leaves_the_losses_in_float32():
    distiller = small({"ce": 1.0, "hint": FitNet(layers=["layer4"])})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = distiller(*floats())
    output.loss.backward()
    assert output.loss.dtype == output.logits.dtype == torch.float32
    assert distiller.student.model.fc.weight.grad.dtype == torch.float32
    exact = distiller(*floats()).loss.item()
    assert output.loss.item() != exact
    assert output.loss.item() == pytest.approx(exact, rel=0.05)


def test_weights_may_change_between_steps():
    distiller = small({"ce": 1.0, "kd": 1.0}).eval()
    terms = distiller(*floats()).terms
    distiller.weights["kd"] = 0.25
    assert distiller(*floats()).loss.item() == pytest.approx(terms["ce"].item() + 0.25 * terms["kd"].item(), rel=1e-6)


def test_ddp_wraps_it_with_the_same_gradients(tmp_path):
    distiller = small({"ce": 1.0, "hint": FitNet(layers=["layer4"])})
    distiller(*floats()).loss.backward()
    plain = {name: gradient.clone() for name, gradient in gradients(distiller).items()}
    distiller.zero_grad()
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(distiller)
        wrapped(*floats()).loss.backward()
    finally:
        dist.destroy_process_group()
    require_equal(gradients(distiller), plain)


def test_accelerate_prepares_it():
    accelerator = Accelerator(cpu=True)
    distiller = small()
    prepared, optimizer = accelerator.prepare(distiller, torch.optim.SGD(distiller.parameters(), lr=0.1))
    accelerator.backward(prepared(*floats()).loss)
    optimizer.step()
    assert accelerator.unwrap_model(prepared) is distiller


def test_hooks_are_taken_off_with_the_distiller_and_after_a_refusal():
    def num_hooks() -> int:
        return sum(len(module._forward_hooks) for model in (student, teacher) for module in model.modules())

    student, teacher = Small(4), Small(8)
    distiller = make_distiller(student, teacher, {"hint": FitNet(layers=["layer4"])}, image_size=SIZE)
    assert num_hooks() == 2
    del distiller
    gc.collect()
    assert num_hooks() == 0
    with pytest.raises(RecipeError):
        make_distiller(student, Small(8, num_classes=9), {"kd": 1.0, "hint": FitNet(layers=["layer4"])}, image_size=SIZE)
    assert num_hooks() == 0


def test_modes_of_the_students_parts_are_left_as_they_are():
    student = network().train()
    student.bn1.eval()
    make_distiller(student, network("resnet34"), {"kd": 1.0}, image_size=SIZE)
    assert student.training
    assert student.layer1.training
    assert not student.bn1.training


# What losses need


def test_labels_may_be_left_out_where_no_loss_looks_at_them():
    images, labels = floats()
    assert small({"kd": 1.0})(images).loss.item() > 0
    with pytest.raises(DataError, match=r"losses\.ce: CrossEntropy looks at labels: distiller\(images, labels\)"):
        small()(images)
    shares = F.one_hot(labels, NUM_CLASSES).float()
    distiller = small()
    assert distiller(images, shares).loss.item() == pytest.approx(distiller(images, labels).loss.item(), rel=1e-6)


class Sees(DistillLoss):
    """Keeps what it is given."""

    needs_sample_ids = True

    def forward(self, student, teacher, batch):
        self.batch = batch
        return student.logits.mean()


def test_sample_ids_and_view_come_to_the_loss_or_are_asked_for():
    loss, (images, labels), ids = Sees(), floats(), torch.arange(6) + 10
    distiller = small({"sees": loss})
    distiller(images, labels, sample_ids=ids, view=3)
    assert torch.equal(loss.batch.sample_ids, ids)
    assert loss.batch.view.tolist() == [3] * 6
    distiller(images, labels, sample_ids=ids, view=ids)
    assert torch.equal(loss.batch.view, ids)
    with pytest.raises(DataError, match=r"losses\.sees: Sees looks at sample_ids"):
        distiller(images, labels)


def test_masks_of_mgd_are_those_of_sample_and_view():
    distiller = make_distiller(Small(4), Small(8), {"mgd": MGD(layers=["layer4"], mask_ratio=0.5)}, image_size=SIZE)
    (images, labels), ids = floats(), torch.arange(6)
    first, again, other = (distiller(images, labels, sample_ids=ids, view=view).loss.item() for view in (0, 0, 1))
    assert first == again != other


def test_memory_bank_is_told_of_the_training_pictures():
    loss = Catalogue().get("losses", "crd")(num_negatives=4, dim=8)
    distiller = small({"crd": loss}, train_labels=SOURCE.train.labels.tolist())
    assert loss.student_bank.shape == (64, 8)
    images, labels = floats()
    before = loss.student_bank.clone()
    distiller(images, labels, sample_ids=torch.tensor([5, 9, 0, 1, 2, 60])).loss.backward()
    moved = (loss.student_bank != before).any(dim=1).nonzero().flatten()
    assert moved.tolist() == [0, 1, 2, 5, 9, 60]
    with pytest.raises(RecipeError, match=r"losses\.crd: .*train_labels in make_distiller"):
        small({"crd": 1.0})


@pytest.mark.parametrize("name", Catalogue().names("losses"))
def test_every_shipped_loss_can_be_used_by_its_name(name):
    student, teacher = (create_model("timm/test_resnet", num_classes=NUM_CLASSES) for _ in range(2))
    distiller = make_distiller(student, teacher, {name: 0.5}, image_size=64, train_labels=[0, 1, 2, 3] * 3).train()
    output = distiller(torch.randn(4, 3, 64, 64), torch.arange(4), sample_ids=torch.arange(4))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.5 * output.terms[name].item(), rel=1e-6)
    assert any(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in student.parameters())


def test_student_alone_needs_no_teacher():
    images, labels = floats()
    distiller = make_distiller(Small(4), None, {"ce": 1.0}, image_size=SIZE)
    assert distiller(images, labels).loss.item() == pytest.approx(F.cross_entropy(distiller.student.model(images), labels).item(), rel=1e-6)


def test_teacher_of_other_classes_teaches_by_its_features_under_another_name():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages, self.classifier = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU()), nn.Linear(8, 9)

        def forward(self, images):
            return self.classifier(self.stages(images).mean(dim=(2, 3)))

    losses = {"ce": 1.0, "hint": FitNet(layers=["layer4"])}
    distiller = make_distiller(Small(4), Other(), losses, image_size=SIZE, teacher_features={"layer4": "stages.0"})
    assert distiller(*floats()).terms["hint"] > 0


def test_initial_projectors_depend_on_the_seed_and_not_on_who_drew_before():
    def projector(seed: int) -> torch.Tensor:
        torch.rand(7)
        distiller = small({"hint": FitNet(layers=["layer4"])}, seed=seed)
        return distiller.losses["hint"].projectors[0].conv.weight

    assert torch.equal(projector(0), projector(0))
    assert not torch.equal(projector(0), projector(1))


# What is refused

OWN = Small(4)
SAME = KD()
MAKING = {
    "student must be a built network, a torch.nn.Module, got 'resnet18'; create_model": {"student": "resnet18"},
    "teacher must be a built network": {"teacher": KD},
    "share parameters, and the teacher's are frozen": {"student": OWN, "teacher": OWN},
    "none of its parameters requires a gradient": {"student": Small(4).requires_grad_(False)},
    "teacher: its weights must be float32": {"teacher": Small(8).half()},
    "teacher: Conv2d must answer with logits, a tensor .N, K., and gives a tensor": {"teacher": nn.Conv2d(3, 4, 3)},
    "losses.kd: the student has 4 classes and the teacher 7": {"teacher": Small(8, num_classes=7)},
    "losses.hint: student Small: Small has no feature 'layer9'.*did you mean 'layer4'": {"losses": {"hint": FitNet(layers=["layer9"])}},
    "losses.hint: teacher Sequential: .* has no feature 'layer4'": {
        "teacher": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
        "losses": {"hint": FitNet(layers=["layer4"])},
    },
    "unknown loss 'kdd'; did you mean 'kd'": {"losses": {"kdd": 1.0}},
    "losses.kd: KD is a class; make one of it, KD()": {"losses": {"kd": (1.0, KD)}},
    "losses.kd must be a weight, a DistillLoss or .weight, DistillLoss., got a KLDivLoss": {"losses": {"kd": nn.KLDivLoss(reduction="sum")}},
    "losses.kd: its weight must be a finite number, 0 or more, got nan": {"losses": {"kd": (float("nan"), KD())}},
    "losses.kd: its weight must be a finite number, 0 or more, got -1": {"losses": {"kd": -1}},
    "losses.soft is the same object as losses.kd": {"losses": {"kd": SAME, "soft": SAME}},
    "a label must be letters, digits and _": {"losses": {"my.kd": KD()}},
    "losses must be a mapping with at least one loss": {"losses": {}},
    "losses.kd: KD needs a teacher, and none is given": {"teacher": None},
    "image_size must be a whole number of pixels, got 'big'": {"image_size": "big"},
    "mean and std come together": {"mean": IMAGENET_MEAN},
    "std must be three numbers above 0": {"mean": IMAGENET_MEAN, "std": (1.0, 0.0, 1.0)},
    "teacher_mean is for uint8 pictures": {"teacher_mean": IMAGENET_MEAN, "teacher_std": IMAGENET_STD},
    "train_labels must be .M. classes": {"train_labels": [0.5, 1.5]},
    "student: pictures of 1 px are too small": {"image_size": 1},
}


@pytest.mark.parametrize("message", MAKING)
def test_what_can_not_be_made_is_refused_with_what_would_do(message):
    given = {"student": Small(4), "teacher": Small(8), "losses": {"kd": 1.0}, "image_size": SIZE} | MAKING[message]
    with pytest.raises(RecipeError, match=message):
        make_distiller(**given)


CALLING = {
    "images are uint8, and this distiller takes normalised floats": lambda images, labels: (images.byte(), labels),
    r"images must be a tensor \[N, 3, 32, 32\], got \[6, 1, 32, 32\] float32": lambda images, labels: (images[:, :1], labels),
    r"images must be .*, got \[3, 32, 32\] float32": lambda images, labels: (images[0], labels),
    r"images must be .*, got \[6, 3, 32, 30\] float32; this distiller was made for image_size=32": lambda images, labels: (images[..., :30], labels),
    "images must be .*, got a list": lambda images, labels: ([images], labels),
    r"images must be .*, got \[0, 3, 32, 32\]": lambda images, labels: (images[:0], labels[:0]),
    "images are on meta and the distiller is on cpu": lambda images, labels: (images.to("meta"), labels),
    "labels are on meta and images on cpu: move them": lambda images, labels: (images, labels.to("meta")),
    r"labels must be a tensor with one row for each of the 6 images, got \[5\] int64": lambda images, labels: (images, labels[:5]),
    "labels must be a tensor .*, got a list": lambda images, labels: (images, labels.tolist()),
    r"labels must be \[N\] whole numbers or \[N, K\] floats, got \[6\] float32": lambda images, labels: (images, labels.float()),
}


@pytest.mark.parametrize("message", CALLING)
def test_batch_that_can_not_be_meant_is_refused(message):
    with pytest.raises(DataError, match=message):
        small()(*CALLING[message](*floats()))


def test_floats_are_refused_where_uint8_was_announced_and_half_weights_everywhere():
    with pytest.raises(DataError, match="images are float32, and this distiller normalises uint8 pictures itself"):
        small(mean=IMAGENET_MEAN, std=IMAGENET_STD)(*floats())
    with pytest.raises(DataError, match=r"moved to bfloat16: keep its weights in float32, and call it under torch\.autocast"):
        small().bfloat16()(*floats())


def test_ids_that_are_no_whole_numbers_are_refused():
    images, labels = floats()
    with pytest.raises(DataError, match=r"sample_ids must be \[N\] int64"):
        small({"kd": 1.0})(images, labels, sample_ids=torch.rand(6))
