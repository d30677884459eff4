"""What a recipe may say of training: how long, with which optimizer, in which precision, and what is logged and saved."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from distill.recipe_types import BelowOne, Count, Inside, Milestones, NotNegative, Positive, Precision, Section, Share, UpToOne, Whole, numbers


class Train(Section):
    """How long and with which optimizer."""

    epochs: Count = Field(description="Passes over the training images.")
    max_steps: Count | None = Field(None, description="Stop after this many steps; null for all epochs.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw.")
    lr: Positive = Field(description="Highest learning rate.")
    momentum: BelowOne = Field(0.9, description="Momentum of sgd.")
    nesterov: StrictBool = Field(True, description="Nesterov's form of sgd's momentum.")
    betas: Annotated[tuple[BelowOne, BelowOne], numbers(2)] = Field((0.9, 0.999), description="Decay rates of adamw's two averages.")
    weight_decay: NotNegative = Field(5e-4, description="Weight decay.")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="Learning rate after warm-up: cosine, step or constant.")
    warmup_epochs: NotNegative = Field(0.0, description="Epochs of linear warm-up; fewer than epochs.")
    milestones: Milestones = Field([0.3333, 0.6667, 0.8889], description="Fractions of the training where the step schedule drops lr.")
    gamma: UpToOne = Field(0.1, description="Factor of each drop of the step schedule.")
    final_lr_fraction: Share = Field(0.0, description="Where the cosine schedule ends, as a fraction of lr.")
    clip_norm: Positive | None = Field(None, description="Largest norm of the gradient; null for no clipping.")
    ema_decay: Inside | None = Field(None, description="Decay of the moving average of the student's weights; null for none.")
    accumulation: Count = Field(1, description="Pieces that a global batch is computed in, to save memory.")
    precision: Precision = Field("auto", description="Compute precision: auto, fp32, bf16, fp16 or fp64.")
    channels_last: StrictBool = Field(True, description="Store images channels-last, which is faster on GPUs.")
    unused: Literal["error", "freeze"] = Field("error", description="Parameters that no loss reaches: error (stop, and name them) or freeze.")
    log_every: Count = Field(20, description="Steps between two records of the loss.")
    log_gradients_every: Whole = Field(0, description="Steps between two records of each term's gradient norm and cosine to ce's; 0 for none.")
    checkpoint_every_minutes: Positive | None = Field(5.0, description="Minutes between two checkpoints; null for none by time.")
    checkpoint_every_steps: Count | None = Field(None, description="Steps between two checkpoints; null for none by steps.")
    keep_checkpoints: Count = Field(2, description="How many of the newest checkpoints are kept, beside the best on val.")

    @field_validator("warmup_epochs")
    @classmethod
    def _leaves_time_to_train(cls, warmup_epochs: float, info: ValidationInfo) -> float:
        if warmup_epochs >= info.data.get("epochs", math.inf):
            raise ValueError(f"must be less than train.epochs ({info.data['epochs']})")
        return warmup_epochs


def check_method(method: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError where the recipe's other values, by key, don't fit the method."""
    who = {"ema_teacher": "the average of its own weights", "mutual": "its peer"}.get(method)
    if who and (given := [name for name in ("teacher", "teachers") if values[name] is not None]):
        raise ValueError(f"has the student learn from {who}; leave out {given[0]} ({given[0]}=null removes an inherited one)")
    if (method == "mutual") != (values["peer"] is not None):
        raise ValueError("needs a peer, such as peer={model: resnet34}" if method == "mutual" else "has no use for a peer; set method=mutual")
    if method == "mutual" and (auto := [label for label, entry in values["losses"].items() if isinstance(entry.weight, str)]):
        raise ValueError(f"has the losses of two students, for which one weight can't be found; give losses.{auto[0]}.weight a number")
    if method == "ema_teacher" and values["train"].ema_decay is None:
        raise ValueError("needs train.ema_decay, such as 0.99, which makes the average that teaches")
