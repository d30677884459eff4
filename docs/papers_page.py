"""python docs/papers_page.py [--check]

Writes docs/papers.md: the tables from the comments at the top of the recipes that papers have figures for, the text from this file. With --check it
writes nothing, and says whether the page is what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from generated import ROOT, table, write_or_check

from distill.recipe_comments import FACTS, top_comment

PAGE = ROOT / "docs" / "papers.md"
RECIPES = ROOT / "recipes"
INTRODUCTION = """\
# Reproducing papers

Recipes with the networks, schedules and weights of published distillation results, and what is known of each figure: who published it, who else found
what, which epoch it is of. The tables are made from the first lines of the recipes' files (`python docs/papers_page.py`).

**None of the ImageNet and CIFAR-100 recipes was run to its end here.** They build and train (tests take steps of them); whether they reach the
figures beside them is for you to find out. What was measured here is in [results.md](results.md).

## What a published figure means
- **The epoch.** CRD's tables on CIFAR-100 report the last epoch. Many later ones (DKD, KD with standardised logits) report the best epoch *on the
  test pictures*, and stand in the same tables. In the 40 logs that the authors of logit standardisation publish, the best epoch is 0.32 points above
  the last in the mean, and up to 0.92. Here a result is the last epoch's, and test is read once.
- **The implementation.** Plain KD from ResNet-34 to ResNet-18 on ImageNet has been published as 70.66, 70.68, 71.03, 71.21, 71.37 and 71.81: 1.15
  points apart, which is more than lies between most methods. One method was published as 72.19, and found to be 68.34 by others.
- **The student alone.** Its figure decides what a gain is: 69.76 (torchvision), 69.90 (mmrazor) and 70.8 (PaddleClas) for the same ResNet-18 in about
  as many epochs.
- **The schedule.** ffcv trains ResNet-18 to 72.4 in 88 epochs and three hours on one A100 *without a teacher*: above most distilled students of 100
  epochs. A better schedule is worth more than most losses. So each recipe has its control, the same student alone with the same schedule.
- **The seeds.** Most figures on ImageNet are of one run.

Percentages are top-1 on ImageNet's validation pictures and CIFAR-100's test pictures.

## To run one
<!-- not run: needs ImageNet, and days -->
```bash
distill train --recipe imagenet/r34_to_r18 data.root=/path/to/imagenet --dry-run    # is everything there?
accelerate launch distill/run.py --recipe imagenet/r34_to_r18 data.root=/path/to/imagenet
accelerate launch distill/run.py --recipe cifar100/resnet56_to_resnet20    # fetches CIFAR-100, and trains the teacher first
```
`imagenet/r34_to_r18` is plain KD; `imagenet/r34_to_r18_dkd` extends it with nothing but other losses. What all have in common is in
[recipes/base/imagenet.yaml](../recipes/base/imagenet.yaml) and [recipes/base/cifar100.yaml](../recipes/base/cifar100.yaml), with what is different
from the papers: 2 % of the training pictures are kept for choosing, and batch norms and biases have no weight decay. The step schedule's `milestones`
are shares of the run, so that it keeps its form with another `train.epochs`: 150, 180 and 210 of 240 epochs are `[0.625, 0.75, 0.875]`. Losses are
written from the papers' equations; [losses.md](losses.md) says for each what its authors' code does in another way.

Feature losses name their layers: CIFAR's ResNets have `layer1` to `layer3` only ([models.md](models.md)), and a loss whose default is `layer4` is
refused there with the layers that exist.

## To compare honestly
<!-- not run: trains for days -->
```bash
distill compare cifar100/resnet56_to_resnet20 cifar100/resnet56_to_resnet20_dkd cifar100/resnet56_to_resnet20_dist --seeds 5
```
trains each recipe and the student alone with five seeds, all with one teacher, and says what can be claimed ([compare.md](compare.md)); `--plan`
prints the commands. `--losses dkd,dist` is something else: it takes the losses of the recipes `losses/dkd` and `losses/dist`, whose weights are for
other pictures. Compare with the student alone *of your own runs* first, and with a published figure second; with that only if yours and theirs are of
the same epoch (`Epoch` below).

## Teachers
- ImageNet: torchvision's weights, fetched once and checked by their hash. `IMAGENET1K_V1` are those that papers have (ResNet-34 73.31, ResNet-50
  76.13, ResNet-101 77.37); `imagenet/r50_to_r18_patient` has `IMAGENET1K_V2` (80.86). Others go into `teacher.weights`. Before anything is trained
  the teacher is scored on val and held against `claimed_top1`. Val is of the training pictures, which it has seen, so that it scores higher there.
- CIFAR-100: nobody's weights are fetched. `cifar100/resnet56_alone` and so on train the teacher here, once, and it is kept for all students. Teachers
  of the papers: ResNet-56 72.34, ResNet-110 74.31, ResNet-32x4 79.42. Look at yours before you look at the student.

## What the columns say
"Paper": the figure, and who has it. "Reproduced": what others found. "Epoch": what the published figure is of. "Time": expected, and where that is
from: estimates for ImageNet are GMACs of teacher and student at the rate of ffcv's 88 epochs of ResNet-18 in 187 minutes on one A100, with pictures
that are loaded as fast; for CIFAR-100 they are guesses. "Measured": what was found here."""
TITLES = {
    "imagenet": "ImageNet",
    "cifar100": "CIFAR-100",
    "imagenette": "Imagenette",
}


def page() -> str:
    """The whole page."""
    return "\n\n".join([INTRODUCTION, *(f"## {title}\n\n{_facts(folder)}" for folder, title in TITLES.items())]) + "\n"


def _facts(folder: str) -> str:
    rows = []
    for path in sorted((RECIPES / folder).glob("*.yaml"), key=_place):
        facts = top_comment(path.read_text(encoding="utf-8")).facts
        name = f"{folder}/{path.stem}"
        rows.append([f"[{name}](../recipes/{name}.yaml)", *(facts[label] for label in FACTS)])
    return table(("recipe", *FACTS), rows)


def _place(path: Path) -> tuple[bool, list[tuple[int, str]]]:
    """Pairs first, each with its losses behind it, by depth and not by letters; networks alone last."""
    words = path.stem.replace("_", " ").split()
    return path.stem.endswith("_alone"), [(int("".join(filter(str.isdigit, word)) or 0), word) for word in words]


def main(options: Sequence[str]) -> int:
    return write_or_check(options, __doc__, {PAGE: page()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
