"""Contrastive representation distillation: the equations by hand, the bank's life, and whom it is contrasted with."""

import math

import pytest
import torch
from helpers import info, normal, outputs

from distill.errors import RecipeError
from distill.losses._bank import OtherClasses, remember
from distill.losses.crd import CRD, noise_contrast
from distill.structures import Batch, DataInfo, FeatureShape

DATA = DataInfo(torch.tensor([7, 2, 30, 11, 5, 9]), torch.tensor([1, 0, 1, 1, 0, 2]))  # ids with gaps, classes in no order


def batch(ids, view=0):
    ids = torch.tensor(ids)
    return Batch(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros_like(ids), ids, torch.full_like(ids, view))


def made(data=DATA, **arguments):
    torch.manual_seed(0)
    loss = CRD(**{"dim": 4} | arguments)
    loss.data = data
    loss.setup(info(pooled=FeatureShape(5)), info(pooled=FeatureShape(7)))
    return loss


def value_of(loss, ids, student=None, teacher=None, view=0):
    student = normal(len(ids), 5, seed=1) if student is None else student
    return loss(outputs(pooled=student), outputs(pooled=normal(len(ids), 7, seed=2) if teacher is None else teacher), batch(ids, view))


def test_noise_contrast_by_hand():
    # h = e^x / (e^x + c) with c = 3: the positive e^x = 9 gives 0.75; the negatives 1 and 3 give 1 - h of 3/4 and 1/2
    value = noise_contrast(torch.tensor([9.0]).log(), torch.tensor([[1.0, 3.0]]).log(), torch.tensor(3.0).log())
    assert value.item() == pytest.approx(-(math.log(0.75) + math.log(0.75) + math.log(0.5)), rel=1e-5)


def test_crd_by_hand():
    # Two classes of two pictures; whoever is drawn of the other class, its row is the same. Embeddings pass the features on.
    loss = CRD(dim=2, temperature=0.5, momentum=0.5)
    loss.data = DataInfo(torch.arange(4), torch.tensor([0, 0, 1, 1]))
    loss.setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(2)))
    assert loss.num_negatives == 2  # 16384 were asked for
    with torch.no_grad():
        for embedding in (loss.student_embedding, loss.teacher_embedding):
            embedding.weight.copy_(torch.eye(2))
            embedding.bias.zero_()
        loss.student_bank.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))
        loss.teacher_bank.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    loss.log_mean.fill_(math.log(1.5))
    # Picture 0: student (0.8, 0.6), teacher (1, 0), scaled to length 1; positive 0.8. The student meets the teacher's (0, 1): 0.6; the teacher meets
    # the student's (0.6, 0.8): 0.6. All over the temperature; the constant is 2 negatives times the mean, 1.5.
    value = value_of(loss, [0], torch.tensor([[8.0, 6.0]]), torch.tensor([[5.0, 0.0]]))
    chance = [math.exp(x / 0.5) / (math.exp(x / 0.5) + 3) for x in (0.8, 0.6)]
    assert value.item() == pytest.approx(2 * -(math.log(chance[0]) + 2 * math.log(1 - chance[1])), rel=1e-4)
    # The banks' row 0 went half the way: (1.8, 0.6) / 2 to length 1, and (1, 0) stayed.
    assert loss.student_bank[0].tolist() == pytest.approx([1.8 / math.sqrt(3.6), 0.6 / math.sqrt(3.6)], rel=1e-5)
    assert loss.teacher_bank[0].tolist() == pytest.approx([1, 0], abs=1e-5)
    assert loss.student_bank[2].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_the_constant_is_what_random_directions_give():
    # For many dimensions a product of random directions is about normal with variance 1 / dim, so e^(x / T) has the mean e^(1 / (2 T^2 dim)).
    loss = made(DataInfo(torch.arange(1000), torch.arange(1000) % 10), dim=128)
    assert loss.log_mean.item() == pytest.approx(1 / (2 * 0.07**2 * 128), rel=0.05)
    value = value_of(loss, list(range(0, 1000, 4)))
    # Nothing is learned yet: -log h of the positive, of mean 0, is about log(n m), and the n negatives' e^x / (n m) add up to about 1.
    assert value.item() == pytest.approx(2 * (math.log(loss.num_negatives) + loss.log_mean.item() + 1), rel=0.05)


def test_negatives_are_all_pictures_of_other_classes_and_no_others():
    pictures = OtherClasses(DATA)
    assert (pictures.num, pictures.num_others) == (6, 3)
    rows = torch.arange(6)
    drawn = pictures.draw(pictures.row_of[DATA.sample_ids], batch(DATA.sample_ids.tolist()), 3000, 0)
    for row in rows:
        shares = torch.bincount(drawn[row], minlength=6) / 3000
        others = DATA.labels != DATA.labels[row]
        assert shares[~others].sum() == 0
        assert shares[others].tolist() == pytest.approx([1 / others.sum().item()] * int(others.sum()), abs=0.05)


def test_negatives_depend_on_sample_and_view_and_not_on_the_place_in_the_batch():
    pictures = OtherClasses(DATA)
    rows = pictures.row_of[torch.tensor([2, 30])]
    both, turned = pictures.draw(rows, batch([2, 30]), 50, 0), pictures.draw(rows.flip(0), batch([30, 2]), 50, 0)
    assert both.tolist() == turned.flip(0).tolist()
    assert both.tolist() != pictures.draw(rows, batch([2, 30], view=1), 50, 0).tolist()


def test_the_bank_follows_only_in_training():
    loss = made().eval()
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    value_of(loss, [7, 2])
    assert all(torch.equal(before[name], tensor) for name, tensor in loss.state_dict().items())
    value_of(loss.train(), [7, 2])
    changed = (before["student_bank"] != loss.student_bank).any(dim=1)
    assert changed.tolist() == [True, True, False, False, False, False]
    assert loss.student_bank.norm(dim=1).tolist() == pytest.approx([1.0] * 6, rel=1e-5)


def test_a_picture_that_comes_twice_moves_its_row_to_the_mean():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    remember(bank, torch.tensor([2, 0, 2]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]), 0.5)
    # halfway from (1, 0) to the mean (0.3, 0.9): (0.65, 0.45), scaled to length 1
    length = math.hypot(0.65, 0.45)
    assert bank.flatten().tolist() == pytest.approx([1, 0, 0, 1, 0.65 / length, 0.45 / length], abs=1e-6)


def test_the_bank_depends_neither_on_the_order_of_the_batch_nor_on_its_repetition():
    ids, student, teacher = [7, 2, 9], normal(3, 5, seed=1), normal(3, 7, seed=2)
    values, banks = [], []
    for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2, 0, 1, 2]):
        loss = made()
        values.append(value_of(loss, [ids[place] for place in order], student[order], teacher[order]).item())
        banks.append(loss.student_bank.clone())
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    torch.testing.assert_close(banks[0], banks[1])
    torch.testing.assert_close(banks[0], banks[2])


def test_writing_to_the_bank_does_not_disturb_the_gradient():
    gradients = []
    for training in (True, False):
        loss, student = made().train(training), normal(3, 5, seed=1).requires_grad_()
        value_of(loss, [7, 2, 9], student).backward()
        gradients.append([student.grad, *(parameter.grad for parameter in loss.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert ours.abs().sum() > 0
    assert len(gradients[0]) == 1 + 4  # both embeddings learn


def test_a_restarted_run_goes_on_with_the_same_bank():
    loss, other = made(), made()
    value_of(loss, [7, 2])
    value_of(other, [30], student=normal(1, 5, seed=8))
    other.load_state_dict(loss.state_dict())
    assert value_of(other, [9, 11]).item() == value_of(loss, [9, 11]).item()


def test_crd_says_what_the_banks_take():
    loss = made(DataInfo(torch.arange(1000), torch.arange(1000) % 10), dim=128)
    assert loss.extra_bytes(256) > 2 * 1000 * 128 * 4 + 256 * 1000 * 4


def test_crd_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match="was not told of them: DataInfo in `data`"):
        made(data=None)
    with pytest.raises(RecipeError, match="all 3 training pictures have one class"):
        made(DataInfo(torch.arange(3), torch.tensor([4, 4, 4])))
    with pytest.raises(RecipeError, match="momentum must be at least 0 and below 1, got 1"):
        CRD(momentum=1)
    loss = CRD(layer="layer4")
    loss.data = DATA
    with pytest.raises(RecipeError, match="layer must be a vector such as 'pooled', and 'layer4' is a map"):
        loss.setup(info(layer4=FeatureShape(5, 1, 1)), info(layer4=FeatureShape(7, 1, 1)))


def test_a_picture_that_is_not_in_the_data_stops_the_run():
    with pytest.raises(IndexError):
        value_of(made(), [3])
