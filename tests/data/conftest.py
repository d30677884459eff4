"""One thread: where other work shares the cores, OpenMP's threads wait for each other."""

import torch

torch.set_num_threads(1)
