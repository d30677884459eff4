"""Distillation in a loop of your own with Accelerate, on one or several GPUs.

    accelerate launch --mixed_precision bf16 docs/examples/accelerate_loop.py --steps 200

Accelerate prepares the distiller as it would the student alone. The teacher goes along to the device, and into nothing that is trained or saved.
"""

import argparse
import itertools

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from distill import create_model, make_distiller
from distill.data.sources.sample import Sample
from distill.losses.kd import KD
from distill.losses.rkd import RelationalKD


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("--steps", 20), ("--batch-size", 64)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--teacher", default="resnet34", help="its weights are random here: load those of a teacher that knows your classes")
    options = parser.parse_args()
    accelerator, part = Accelerator(), Sample().train
    images = (part.pixels / 255 - 0.286) / 0.353
    data = TensorDataset(images, torch.from_numpy(part.labels))
    loader = DataLoader(data, batch_size=options.batch_size, shuffle=True, drop_last=True)

    student, teacher = (create_model(name, num_classes=10) for name in (options.student, options.teacher))
    losses = {
        "ce": 1.0,
        "kd": (1.0, KD(temperature=4)),
        "relations": (1.0, RelationalKD()),
    }  # rkd compares the pictures of all processes with each other
    distiller = make_distiller(student, teacher, losses, image_size=images.shape[-1])
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3)
    distiller, optimizer, loader = accelerator.prepare(distiller, optimizer, loader)

    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    distiller.train()
    for step, (images, labels) in zip(range(options.steps), batches, strict=False):
        output = distiller(images, labels)
        optimizer.zero_grad()
        accelerator.backward(output.loss)
        accelerator.clip_grad_norm_(distiller.parameters(), 5.0)
        optimizer.step()
        if step % 10 == 0 or step == options.steps - 1:
            accelerator.print(step, f"{accelerator.reduce(output.loss.detach(), 'mean').item():.3f}")
    accelerator.wait_for_everyone()
    accelerator.save(student.state_dict(), "student.safetensors", safe_serialization=True)  # the plain student, without anything around it


if __name__ == "__main__":
    main()
