"""`distill cache verify RECIPE`: are the kept answers those that the teacher gives to these pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.build.cache import MOST_KL
from distill.caching.opening import Opened, opened
from distill.engine.fingerprints import hash_pictures
from distill.errors import DataError

_LEAST_AGREEMENT = 0.99  # of the most likely class: other batches and half precision move answers that are nearly tied


def verify(name: str, overrides: Sequence[str], plugins: Sequence[str], *, num: int) -> None:
    """Looks at the seal of every answer, and asks the teacher again for `num` of them. Raises DataError if anything is wrong."""
    with opened(name, overrides, plugins) as cache:
        say, wrong = cache.job.say, []
        for view in cache.cached.folder.views():
            damaged = cache.cached.folder.view(view, writes=False).num_damaged()
            if damaged:
                wrong.append(f"{damaged} answers of view {view} are damaged: the next run asks for them again")
        found = [_compared(cache, view, rows) for view, rows in _chosen(cache, num).items()]
        if found:
            total = {key: sum(part[key] for part in found) for key in ("pictures", "differing", "agreeing", "kl")}
            largest = max(part["largest"] for part in found)
            agreement, kl = total["agreeing"] / total["pictures"], total["kl"] / total["pictures"]
            say(
                f"{total['pictures']:,} answers asked for again: the same most likely class for {agreement:.2%}, mean KL {kl:.2g} nats, "
                f"largest difference of a logit {largest:.3g}; {total['differing']} pictures differ"
            )
            if total["differing"]:
                wrong.append(f"{total['differing']} pictures are not those that the answers are of: have files, or what decodes them, changed?")
            if agreement < _LEAST_AGREEMENT or kl > MOST_KL:
                wrong.append(f"the answers are not the teacher's (at least {_LEAST_AGREEMENT:.0%} and at most {MOST_KL:g} nats were expected)")
        else:
            say("no answers are there yet")
        if wrong:
            raise DataError(f"{cache.cached.folder.path}: " + "; ".join(wrong) + f"; distill cache clear {cache.cached.folder.path} removes it")
        say("every answer that is there is whole")


def _chosen(cache: Opened, num: int) -> dict[int, np.ndarray]:
    """view -> positions in the training part, spread evenly over what is there."""
    part, folder = cache.loader.part, cache.cached.folder
    rows = np.searchsorted(cache.cached.sample_ids, part.sample_ids)
    there = {view: np.flatnonzero(folder.view(view, writes=False).whole()[rows]) for view in folder.views()}
    keys = np.concatenate([np.stack([np.full(len(positions), view), positions], axis=1) for view, positions in there.items()] or [np.zeros((0, 2))])
    picked = keys[np.linspace(0, len(keys) - 1, min(num, len(keys))).astype(int)] if len(keys) else keys
    return {view: picked[picked[:, 0] == view, 1].astype(np.int64) for view in np.unique(picked[:, 0]).astype(int).tolist()}


@torch.no_grad()
def _compared(cache: Opened, view: int, positions: np.ndarray) -> dict[str, Any]:
    cached, result = cache.cached, {"pictures": 0, "differing": 0, "agreeing": 0, "kl": 0.0, "largest": 0.0}
    file = cached.folder.view(view, writes=False)
    chunks = (positions[start : start + 64] for start in range(0, len(positions), 64))
    for batch in cache.loader.batches(view, chunks):
        packed, hashes, _ = file.read(np.searchsorted(cached.sample_ids, batch.host.sample_ids))
        kept = cached.layout.outputs(torch.from_numpy(packed).to(cached.device), cached.teacher).logits.double()
        live = cached.teacher(batch).logits.double()
        result["pictures"] += len(live)
        result["differing"] += int((hash_pictures(batch.images).cpu().numpy() != hashes).sum())
        result["agreeing"] += int((kept.argmax(dim=1) == live.argmax(dim=1)).sum())
        result["kl"] += float(_kl(live, kept).sum())
        result["largest"] = max(result["largest"], float(_difference(live, kept, has_all=cached.layout.logits.has_all_logits)))
    return result


def _kl(live: Tensor, kept: Tensor) -> Tensor:
    """[n] nats"""
    log_p, log_q = live.log_softmax(dim=1), kept.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def _difference(live: Tensor, kept: Tensor, *, has_all: bool) -> Tensor:
    """[] of logits; of the largest one's logarithm where only some are kept."""
    if has_all:
        return (live - kept).abs().max()
    return (live.log_softmax(dim=1).amax(dim=1) - kept.log_softmax(dim=1).amax(dim=1)).abs().max()
