"""What a recipe may say: each key with its type, limits, default and a line of description. No torch, no files, no import by name."""

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, StrictBool, ValidationError, ValidationInfo, field_validator

from distill.recipe_losses import LossEntry, Schedule
from distill.recipe_networks import Cache, Network, OneOfSeveral, Student, Teacher, check_answers, check_chain, check_teachers
from distill.recipe_train import Train, check_method
from distill.recipe_types import (
    NOT_BOOL,
    Arguments,
    Count,
    Inside,
    Label,
    Method,
    NotNegative,
    Pixels,
    Positive,
    Ratio,
    RunName,
    Scale,
    Section,
    Seed,
    Share,
    Text,
    Tracking,
    Whole,
)

__all__ = [
    "Augment",
    "Cache",
    "Data",
    "LossEntry",
    "Network",
    "OneOfSeveral",
    "Recipe",
    "Student",
    "Teacher",
    "Train",
    "shown_value",
    "what_is_wrong",
]


class Augment(Section):
    """Random changes of each training image."""

    crop: Literal["none", "padded", "random_resized"] = Field("padded", description="none, padded (shift after padding) or random_resized.")
    padding: Whole = Field(2, description="Pixels added on each side before a padded crop.")
    scale: Scale = Field((0.35, 1.0), description="Area range of random_resized, as fractions.")
    ratio: Ratio = Field((0.75, 1.3333), description="Width to height range of random_resized.")
    flip: Share = Field(0.5, description="Probability of a mirrored image.")
    auto: Literal["none", "trivial", "rand"] = Field("none", description="none, trivial (TrivialAugment) or rand (RandAugment).")
    num_ops: Annotated[int, Field(ge=1, le=5), NOT_BOOL] = Field(2, description="Operations on an image in RandAugment.")
    magnitude: Annotated[int, Field(ge=0, le=30), NOT_BOOL] = Field(9, description="Strength of RandAugment's operations.")
    brightness: Share = Field(0.0, description="Jitter of the brightness: factors within 1 +- this.")
    contrast: Share = Field(0.0, description="Jitter of the contrast.")
    saturation: Share = Field(0.0, description="Jitter of the saturation.")
    hue: Annotated[float, Field(ge=0, le=0.5), NOT_BOOL] = Field(0.0, description="Jitter of the hue, in turns of the colour circle.")
    erase: Share = Field(0.0, description="Probability that a box of an image is painted over.")
    erase_scale: Scale = Field((0.02, 0.3333), description="Area range of that box, as fractions.")
    mixup: NotNegative = Field(0.0, description="Alpha of mixup: two images blended, labels too; 0 for none.")
    cutmix: NotNegative = Field(0.0, description="Alpha of cutmix: a box of another image put in; 0 for none.")
    mix: Share = Field(1.0, description="Probability that an image is mixed, where mixup or cutmix is on.")


class Data(Section):
    """Which images, how many at a time and how they are varied."""

    source: Text = Field("sample", description="Name of the data source.")
    root: Text | None = Field(None, description="Folder that holds the data; null for the source's own place.")
    image_size: Pixels | None = Field(None, description="Height and width in pixels; null for the source's own.")
    global_batch_size: Count = Field(128, description="Images per step over all processes together.")
    val_fraction: Inside = Field(0.1, description="Fraction of the training images held back to select on.")
    view_seed: Seed = Field(0, description="Key of the augmentation; shared by runs of different seeds.")
    views: Whole = Field(0, description="Different views of each image; 0 for as many as epochs.")
    workers: Whole | None = Field(None, description="Loading processes per training process; null for automatic.")
    arguments: Arguments = Field({}, description="Further arguments for the data source.")
    labels: Literal["given", "none"] = Field("given", description="given, or none: training looks at no label, only at the teacher.")
    on_bad_image: Literal["error", "skip"] = Field("error", description="An unreadable image: error, or skip (another one of its class).")
    augment: Augment = Field(Augment(), description="How training images are varied.")


class Recipe(Section):
    """Everything that decides one training run."""

    description: str = Field("", description="What this recipe is for, in a sentence.")
    seed: Seed = Field(0, description="Key of initial weights and of the order of samples.")
    run_name: RunName | None = Field(None, description="Name of the run's folder; null for an automatic one.")
    runs_dir: Text = Field("runs", description="Folder that run folders are written to.")
    time_limit: Positive | None = Field(None, description="Minutes after which the command saves and stops with exit code 75; null for none.")
    tracking: Tracking = Field([], description="Where the run is also followed: tensorboard, trackio, wandb, mlflow.")
    deterministic: StrictBool = Field(False, description="Only operations that give the same bits each time, which may be slower on GPUs.")
    fast: Literal["auto", "off", "compile"] = Field("auto", description="auto (what pays), off, or compile (also student and losses, always).")
    teacher: Teacher | None = Field(None, description="The network that is learned from; null for none.")
    teachers: list[OneOfSeveral] | None = Field(None, description="Several networks that are learned from, in place of teacher; null for none.")
    answers: Literal["mean", "weighted", "sampled"] = Field("mean", description="What several teachers answer: mean, weighted or sampled.")
    student: Student = Field(description="The network that learns.")
    chain: list[Text] | None = Field(None, description="Teacher, assistants and student, each of which learns from the one before; null for none.")
    losses: dict[Label, LossEntry] = Field(min_length=1, description="Label -> one term of the loss; null removes an inherited one.")
    control: StrictBool = Field(False, description="Also train the student alone, as a run of its own.")
    data: Data = Field(description="Which images, and how they are varied.")
    train: Train = Field(description="How long and with which optimizer.")
    peer: Student | None = Field(None, description="The other student of the method mutual; null for none.")
    method: Method = Field("distill", description="distill (from a teacher), ema_teacher (from its own average) or mutual (from its peer).")

    @field_validator("teachers")
    @classmethod
    def _are_several(cls, teachers: list[OneOfSeveral] | None, info: ValidationInfo) -> list[OneOfSeveral] | None:
        if teachers is not None:
            check_teachers(teachers, info.data.get("teacher"))
        return teachers

    @field_validator("answers")
    @classmethod
    def _are_of_several(cls, answers: str, info: ValidationInfo) -> str:
        if "teachers" in info.data:
            check_answers(answers, info.data["teachers"])
        return answers

    @field_validator("method")
    @classmethod
    def _has_what_it_takes(cls, method: str, info: ValidationInfo) -> str:
        if {"teacher", "teachers", "train", "losses", "peer"} <= set(info.data):
            check_method(method, info.data)
        return method

    @field_validator("chain")
    @classmethod
    def _leads_from_teacher_to_student(cls, chain: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if chain is not None and {"teacher", "student"} <= set(info.data):  # what is wrong with these has its own message
            check_chain(chain, info.data["teacher"], info.data["student"])
        return chain


_WORDS = {
    "missing": "must be given",
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping (key: value)"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text (in quotes, if it looks like something else)",
    "string_too_short": "must not be empty",
    "invalid_key": "must have text as keys",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    "too_short": "must hold at least {min_length} entry",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "literal_error": "must be one of {expected}",
}


def what_is_wrong(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Returns path and message, in plain words, of each fault that pydantic found."""
    return [(tuple(part for part in fault["loc"] if not str(part).startswith("[")), _in_words(fault)) for fault in error.errors(include_url=False)]


def _in_words(fault: Any) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return _unknown(fault["loc"])
    words = _WORDS.get(kind, "{error}").format(**{"error": fault["msg"], **fault.get("ctx", {})})
    return words if kind == "missing" else f"{words}, got {shown_value(fault['input'])}"


def shown_value(value: Any) -> str:
    """Returns a value as a recipe would write it, cut to a length that fits a message."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(path: tuple[str | int, ...]) -> str:
    *parents, key = (str(part) for part in path if not str(part).startswith("["))
    known = {entry: entry.rpartition(".")[2] for entry in _known_paths(Recipe)}
    if key in known:
        return "unknown key; dots join keys on the command line only, in a file write it nested"
    place = "".join(f"{parent}." for parent in parents)
    here = list(Schedule.model_fields) if parents[-1:] == ["weight"] else [name for entry, name in known.items() if entry == place + name]
    guesses = difflib.get_close_matches(key, here, 1)
    if not guesses:
        closest = difflib.get_close_matches(key, known.values(), 1)
        guesses = [entry for entry, name in known.items() if name in closest][:2]
    return f"unknown key; did you mean {' or '.join(map(repr, guesses))}?" if guesses else f"unknown key; known here: {', '.join(here)}"


def _known_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in (field.annotation, *get_args(field.annotation)):
            # a loss takes keys that only the loss knows, and its label stands in between; a teacher's own teacher has the keys of the teacher
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in (LossEntry, model):
                yield from _known_paths(part, f"{prefix}{name}.")
