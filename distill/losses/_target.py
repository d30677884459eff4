"""An answer taken apart: one class against all others, and some classes among themselves; in log space, so that saturated logits stay finite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def only(classes: Tensor, logits: Tensor) -> Tensor:
    """[N] int64 and [N, K] -> [N, K] bool: True at each sample's class."""
    return F.one_hot(classes, logits.shape[1]).bool()


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """[N, K] and [N] int64 -> [N]: log(p / (1 - p)), p the softmax share of each sample's class; its sigmoid is p."""
    others = logits.masked_fill(only(classes, logits), -torch.inf).logsumexp(dim=1)
    return logits.gather(1, classes[:, None]).squeeze(1) - others


def two_way_divergence(student_odds: Tensor, teacher_odds: Tensor) -> Tensor:
    """[N] and [N] log odds -> [N]: KL((p, 1 - p) || (q, 1 - q)), p the teacher's share and q the student's."""
    yes = teacher_odds.sigmoid() * (F.logsigmoid(teacher_odds) - F.logsigmoid(student_odds))
    no = (-teacher_odds).sigmoid() * (F.logsigmoid(-teacher_odds) - F.logsigmoid(-student_odds))
    return yes + no


def log_softmax_without(logits: Tensor, left_out: Tensor) -> Tensor:
    """[N, K] and [N, K] bool -> [N, K]: log softmax over the classes that are not left out; 0 for those that are, also where all are."""
    lowest = torch.finfo(logits.dtype).min / 2  # and not -inf, of which a row with nothing else has no softmax
    return F.log_softmax(logits.masked_fill(left_out, lowest), dim=1).masked_fill(left_out, 0)


def divergence_without(student_logits: Tensor, teacher_logits: Tensor, left_out: Tensor) -> Tensor:
    """[N, K] twice and [N, K] bool -> []: KL(teacher || student) among the classes that are not left out, mean over the batch."""
    ours, theirs = log_softmax_without(student_logits, left_out), log_softmax_without(teacher_logits, left_out)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
