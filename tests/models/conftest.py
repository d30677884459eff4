"""One thread: where other work shares the cores, OpenMP's threads wait for each other, and these small networks run 40 times slower."""

import torch

torch.set_num_threads(1)
