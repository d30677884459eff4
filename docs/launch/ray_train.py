"""python docs/launch/ray_train.py RECIPE [KEY=VALUE ...] --workers 16 --gpus

Trains with Ray Train, on a cluster or on this machine alone. runs_dir must be a folder that all machines see, and an absolute one: Ray starts its
workers in folders of their own. A worker that fails is started again, with the others, and the run goes on from its last checkpoint.
"""

import argparse

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train_one(config: dict) -> None:
    """One of the processes; Ray has told torch about the others."""
    from distill import train

    train(config["recipe"], config["overrides"], resume=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=2, help="processes of all machines together")
    parser.add_argument("--gpus", action="store_true", help="a GPU for each worker; without, on CPUs")
    parser.add_argument("--retries", type=int, default=3, help="how often workers are started again")
    options = parser.parse_intermixed_args()
    scaling = ScalingConfig(num_workers=options.workers, use_gpu=options.gpus)
    config = {"recipe": options.recipe, "overrides": options.overrides}
    TorchTrainer(
        train_one, train_loop_config=config, scaling_config=scaling, run_config=RunConfig(failure_config=FailureConfig(max_failures=options.retries))
    ).fit()


if __name__ == "__main__":
    main()
