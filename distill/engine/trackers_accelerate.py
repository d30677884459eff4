"""Accelerate's tracker of each kind, begun for one run or gone on with."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

PROJECT = "distill"  # where no environment variable of the tracker names another
Config = Mapping[str, str | int | float | bool]


def what_is_missing(name: str) -> str | None:
    """What has to be installed before this tracker can be used, in a sentence; None where all is there, or nothing is known of the name."""
    if name not in _OPEN:
        return None
    if not _is_installed(name):
        return f"the package {name} is not installed: pip install {name}, or set tracking=[]"
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ and not _is_installed("sqlalchemy"):
        return "mlflow-skinny can only write to a server: set MLFLOW_TRACKING_URI in the environment, or pip install mlflow, or set tracking=[]"
    return None


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # W&B's folder `wandb` is a package without origin where Python looks in the working folder


def open_tracker(name: str, key: str, run_name: str, folder: Path, config: Config) -> GeneralTracker:
    """The started tracker of one run, which is told the recipe. key: what this tracker knows the run by; the same one goes on with the same run.

    TensorBoard's forgets all that it was told before. Raises whatever the tracker's package does.
    """
    return _OPEN[name](key, run_name, folder, config)


class _OneFolder(TensorBoardTracker):
    """TensorBoard with the recipe beside the scalars. Accelerate's own puts it in two more folders, which TensorBoard shows as two more runs."""

    def store_init_configuration(self, values: Config) -> None:
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(values), {}):
            self.writer.file_writer.add_summary(summary)
        self.writer.flush()


def _tensorboard(key: str, run_name: str, folder: Path, config: Config) -> GeneralTracker:
    path = folder / "tensorboard"
    for old in path.glob("events.out.tfevents.*"):  # their order is that of seconds and process ids, which is not always that of time
        old.unlink()
    tracker = _OneFolder("tensorboard", folder, purge_step=0)  # for a TensorBoard that has read those files already
    tracker.start()
    tracker.store_init_configuration(config)
    return tracker


class _Finished(TrackioTracker):
    """trackio that knows when a run is finished, and does not finish it once more when the process ends."""

    def finish(self) -> None:
        import trackio

        trackio.finish()


def _trackio(key: str, run_name: str, folder: Path, config: Config) -> GeneralTracker:
    # the key is in the name because trackio finds a run by its name, and there may have been one of that name before
    options = {"name": f"{run_name}-{key[:6]}", "resume": "allow", "config": dict(config), "embed": False}
    tracker = _Finished(PROJECT, **options)
    tracker.start()
    return tracker


class _OwnSteps(WandBTracker):
    """W&B with the step as a value of its own. Its built-in step refuses a second point of the last step when a run goes on."""

    def start(self) -> None:
        super().start()
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int | None = None, **options: Any) -> None:
        super().log({**values, "step": step}, **options)


def _wandb(key: str, run_name: str, folder: Path, config: Config) -> GeneralTracker:
    place = {} if "WANDB_DIR" in os.environ else {"dir": str(folder)}
    settings = {"console": "off", "quiet": True, "login_timeout": 30, "finish_timeout": 60}  # nobody may be there to answer, nor the server
    options = {"id": key, "name": run_name, "resume": "allow", "config": dict(config), "settings": settings, **place}
    tracker = _OwnSteps(os.environ.get("WANDB_PROJECT", PROJECT), **options)
    tracker.start()
    return tracker


class _OwnStore(MLflowTracker):
    """MLflow in the run's folder, where the environment names no server."""

    is_own = False

    def finish(self) -> None:
        import mlflow

        try:
            super().finish()
        finally:
            if self.is_own:
                mlflow.set_tracking_uri(None)  # it would be in the environment for the next run


def _mlflow(key: str, run_name: str, folder: Path, config: Config) -> GeneralTracker:
    import mlflow

    is_own = "MLFLOW_TRACKING_URI" not in os.environ
    if is_own:
        mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    try:
        client, experiment = mlflow.MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        begun = client.search_runs([number], filter_string=f"tags.distill_key = '{key}'")
        run_id = begun[0].info.run_id if begun else None
        tracker = _OwnStore(experiment, run_id=run_id, run_name=run_name, tags={"distill_key": key})
        tracker.is_own = is_own
        tracker.start()
        if not begun:  # what MLflow calls parameters can't change later
            tracker.store_init_configuration(dict(config))
    except BaseException:
        if is_own:
            mlflow.set_tracking_uri(None)
        raise
    return tracker


_OPEN = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb, "mlflow": _mlflow}
