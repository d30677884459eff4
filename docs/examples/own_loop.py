"""Distillation in a plain PyTorch loop: torchvision's ResNet-18 learns from its ResNet-50, on the pictures that come with distill.

    python docs/examples/own_loop.py --steps 200 --teacher TEACHER.safetensors

TEACHER.safetensors knows these ten classes, such as runs/r50_alone-seed0/student.safetensors after `distill train --recipe r50_alone`. Without it the
teacher has random weights, which shows the code and teaches nothing.
"""

import argparse
import itertools

import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet50

from distill import make_distiller
from distill.data.sources.sample import Sample
from distill.losses.fitnet import FitNet
from distill.losses.kd import KD


def dataset(part, num=None):  # normalised floats and labels, as a loader of your own gives them
    return TensorDataset((part.pixels[:num] / 255 - 0.286) / 0.353, torch.from_numpy(part.labels[:num]))


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("--steps", 20), ("--batch-size", 64), ("--test-pictures", 2000)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--teacher", help="a .safetensors file")
    options = parser.parse_args()
    device, sample = "cuda" if torch.cuda.is_available() else "cpu", Sample()
    student, teacher = resnet18(num_classes=10), resnet50(num_classes=10)
    if options.teacher:
        teacher.load_state_dict(load_file(options.teacher))
    losses = {"ce": 0.1, "kd": (0.9, KD(temperature=4)), "hint": (1.0, FitNet(layers=["layer3"]))}
    distiller = make_distiller(student, teacher, losses, image_size=28).to(device)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)  # the student's and the hint's own

    loader = DataLoader(dataset(sample.train), batch_size=options.batch_size, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    distiller.train()
    for step, (images, labels) in zip(range(options.steps), batches, strict=False):
        output = distiller(images.to(device), labels.to(device))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == options.steps - 1:
            print(step, f"{output.loss.item():.3f}", {label: round(term.item(), 3) for label, term in output.terms.items()})

    student.eval()  # it is the network that was given: plain torchvision, with plain keys in its state dict
    with torch.inference_mode():
        tested = DataLoader(dataset(sample.test, options.test_pictures), batch_size=500)
        right = sum((student(images.to(device)).argmax(dim=1).cpu() == labels).sum().item() for images, labels in tested)
    print(f"test top-1: {right / len(tested.dataset):.2%} of {len(tested.dataset)} pictures")


if __name__ == "__main__":
    main()
