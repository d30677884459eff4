"""What the command line does, in three lines of Python.

python docs/examples/three_lines.py                                   r50_to_r18 with one epoch: minutes on 2 cores of a CPU
python docs/examples/three_lines.py r50_to_r18 seed=1                 any recipe, any overrides, as for distill train
accelerate launch docs/examples/three_lines.py                        on all GPUs
"""

import sys

from distill import load_recipe, train

if __name__ == "__main__":
    recipe, *overrides = sys.argv[1:] or ["r50_to_r18", "train.epochs=2"]
    run = train(load_recipe(recipe, overrides))
    print(f"{run.path}: test top-1 {run.row['test_top1']:.2%}")
