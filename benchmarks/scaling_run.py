"""Started by benchmarks.scaling: one process of a group. For each line that it reads it trains one block, and answers with a line of JSON.

The first answer, without being asked, says what the block's pictures were: for each step the ids and a checksum of every view.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import zlib

import torch

from benchmarks import contenders
from distill.data.loader import TrainingLoader
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import prepare_process, processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "precision"):
        parser.add_argument(name)
    for name in ("batch_size", "image_size", "steps", "num_threads"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends its processes itself
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anything prints is no answer
    prepare_process()
    torch.set_num_threads(options.num_threads)
    state = processes()
    source = Synthetic(image_size=options.image_size, num_classes=10, num_train=options.batch_size * options.steps, num_val=10, num_test=10)
    setting = contenders.Setting(source, options.batch_size, state.device, options.precision, options.teacher)
    run, losses = contenders.framework(setting)
    with _Watched() as seen:
        run()
    answer({"pictures": seen.steps, "loss": losses[0], "num_processes": state.num_processes}, pipe)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        answer({"seconds": time.perf_counter() - started, "loss": losses[-1]}, pipe)
    os._exit(0)  # the others of the group may be gone already, and leaving it in order would wait for them


def answer(value: dict, pipe) -> None:
    pipe.write(json.dumps(value) + "\n")
    pipe.flush()


class _Watched:
    """Inside, every batch that a loader yields is noted: for each step, [sample id, checksum of the view's bytes] pairs."""

    def __enter__(self) -> _Watched:
        self.steps, self._original = [], TrainingLoader.batches
        original, steps = self._original, self.steps

        def batches(loader, view, micro_batches):
            for batch in original(loader, view, micro_batches):
                pictures = batch.images.cpu().contiguous().numpy()
                steps.append([[int(one), zlib.crc32(picture)] for one, picture in zip(batch.host.sample_ids, pictures, strict=True)])
                yield batch

        TrainingLoader.batches = batches
        return self

    def __exit__(self, *_: object) -> None:
        TrainingLoader.batches = self._original


if __name__ == "__main__":
    main()
