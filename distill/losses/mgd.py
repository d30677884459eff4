"""Masked generative distillation: from a student's map with channels missing, the teacher's whole map is generated."""

from __future__ import annotations

from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses._precision import in_own_precision
from distill.losses._sizes import pooled_to
from distill.losses.base import DistillLoss, keyed_uniform, upcast
from distill.structures import Batch, ModelInfo, Outputs

_STREAM = 2205_01529


def generator(channels: int) -> nn.Sequential:
    """[N, C, H, W] -> [N, C, H, W]: what fills in the hidden channels."""
    return nn.Sequential(nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, kernel_size=3, padding=1))


class MGD(DistillLoss):
    """Random channels of the student's map are hidden; two convolutions must still generate the teacher's whole map from what is left.

    Kind: feature
    Inputs: maps of both; any widths
    Equation: sum over layers of 1 / N sum over elements of (G(M A(F_s)) - F_t)^2; A a 1x1 convolution to the teacher's width, nothing where the
        widths are equal; M 0 for a channel of a sample with probability `mask_ratio`, else 1; G = 3x3 convolution, ReLU, 3x3 convolution.
    Paper: Yang, Li, Shao, Shi, Yuan, Yuan, 2022, arXiv 2205.01529
    Weights: CIFAR-100 1.2e-3, ImageNet 7e-5, both mask_ratio 0.15 on layer4 (cls_KD, the authors' code)
    Labels: not used
    Cost: two 3x3 convolutions in the teacher's width C, trained: 18 C^2 numbers, 75 million on ResNet-50's layer4

    A sum over elements as in the authors' code, taken in float32, so the weight depends on the map's size: 7e-5 is for 512 x 7 x 7 and comes to 1.8
    times the mean over elements. As in the authors' code for classification whole channels are hidden, and the rest is not scaled up.
    A student's map of another size is average-pooled to the teacher's first.
    The mask depends on sample and view only: the same on any number of processes and after a restart.
    """

    needs_sample_ids = True
    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer4"], mask_ratio: float = 0.15):  # noqa: B006  never changed
        """Raises RecipeError unless 0 <= mask_ratio < 1."""
        super().__init__(layers=layers)
        if not 0 <= mask_ratio < 1:
            raise RecipeError(f"mask_ratio must be at least 0 and below 1, got {mask_ratio}: a mask of 1 hides the whole student")
        self.mask_ratio = mask_ratio

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        widths = [(student.shapes[layer].channels, teacher.shapes[layer].channels) for layer in self.layers]
        self.aligners = nn.ModuleList(nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, kernel_size=1) for ours, theirs in widths)
        self.generators = nn.ModuleList(generator(theirs) for _, theirs in widths)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for index, (layer, align, generate) in enumerate(zip(self.layers, self.aligners, self.generators, strict=True)):
            aligned = in_own_precision(align, pooled_to(student.features[layer], teacher.features[layer].shape[2:]))
            is_seen = keyed_uniform(batch.sample_ids, batch.view, aligned.shape[1], stream=_STREAM + index) >= self.mask_ratio  # [N, C]
            generated = in_own_precision(generate, aligned * is_seen[:, :, None, None].to(aligned.dtype))
            terms.append((upcast(generated) - upcast(teacher.features[layer])).square().flatten(1).sum(dim=1).mean())
        return added(terms)
