"""What a recipe may say of its networks: the student, and what it learns from."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from distill.recipe_types import Arguments, Count, Norm, Number, Pixels, Positive, Section, Text, UpToOne, in_schema, numbers

_THREE = in_schema(minItems=3, maxItems=3)


class Network(Section):
    """A network and how its inputs are normalised."""

    model: Text = Field(description="Name of the architecture, such as resnet18, timm/resnet50d or hf-hub:ORGANISATION/NAME.")
    norm: Norm = Field("batch", description="Normalisation: batch, sync (batch across GPUs), group or frozen.")
    stem: Literal["imagenet", "small"] = Field("imagenet", description="First layers: imagenet (7x7, pooling) or small (3x3).")
    arguments: Arguments = Field({}, description="Further arguments for the model's constructor.")
    features: dict[str, Text] = Field({}, description="Feature name, such as layer3 -> module path, where another stage is meant.")
    weights: Text | None = Field(None, description="A file, a run folder or a published name; null for random weights.")
    mean: Annotated[list[Number], numbers(3), _THREE] | None = Field(None, description="Mean per channel; null for the data's own.")
    std: Annotated[list[Positive], numbers(3), _THREE] | None = Field(None, description="Spread per channel; null for the data's own.")


class Student(Network):
    """The small network that learns."""

    new_head: StrictBool = Field(False, description="Replace the weights' last layer by a new one, for another number of classes.")
    frozen: list[Text] = Field([], description="Module paths, such as layer1, that keep their weights and batch statistics.")


class Cache(Section):
    """Where the teacher's answers are kept, so that it is asked once for each view of a picture."""

    use: Literal["auto", "on", "off"] = Field("auto", description="auto (where it can be used and pays), on (else stop) or off.")
    folder: Text | None = Field(None, description="Folder of the kept answers; null for one found by what decides them.")
    format: Literal["auto", "fp32", "bf16", "int8", "topk"] = Field("auto", description="How logits are kept; auto: bf16, many classes topk.")
    top_k: Count = Field(16, description="Logits that topk keeps of each answer.")
    features: list[Text] = Field([], description="Features kept beside the logits, such as pooled.")


class Teacher(Network):
    """The big network that is learned from."""

    image_size: Pixels | None = Field(None, description="Size that the teacher sees the same view in; null for the student's.")
    num_classes: Count | None = Field(None, description="Classes of the weights, where they are not the data's; no loss may then compare logits.")
    classes: Text | Annotated[list[Text], Field(min_length=1)] | None = Field(
        None, description="Names of the weights' classes, in order: a list, a file, imagenet-1k, or data; null for what the weights say."
    )
    class_map: dict[str, Text] = Field({}, description="Class of the data -> the teacher's name for it, where they differ.")
    weights: Text = Field("train", description="A file, a run folder, a published name, or train: train it first with its own recipe.")
    teacher: "Teacher | None" = Field(None, description="What this one learns from first, which makes it an assistant; null for labels alone.")
    recipe: Text | None = Field(None, description="The recipe that trains the teacher; needed when weights is train.")
    overrides: Arguments = Field({}, description="Values merged into the teacher's recipe.")
    cache: Cache = Field(Cache(), description="Where the teacher's answers are kept.")
    check: StrictBool = Field(True, description="Score the teacher first and stop where it falls short.")
    claimed_top1: UpToOne | None = Field(None, description="Top-1 fraction that the teacher's weights are said to reach.")

    @field_validator("num_classes")
    @classmethod
    def _come_with_weights(cls, num_classes: int | None, info: ValidationInfo) -> int | None:
        if num_classes is not None and info.data.get("weights") == "train":
            raise ValueError("needs teacher.weights to name the weights: a teacher that is trained here has the data's classes")
        return num_classes

    @field_validator("class_map")
    @classmethod
    def _are_compared(cls, class_map: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.data.get("num_classes") is not None and (class_map or info.data.get("classes") is not None):
            raise ValueError("is for answers that are compared by name, and teacher.num_classes says that they are not: leave out one of them")
        return class_map

    @field_validator("teacher")
    @classmethod
    def _is_learned_from(cls, teacher: "Teacher | None", info: ValidationInfo) -> "Teacher | None":
        if teacher is not None and info.data.get("weights", "train") != "train":
            raise ValueError(f"is never asked, because the weights of {info.data['model']} are named; leave out one of them")
        return teacher

    @field_validator("recipe")
    @classmethod
    def _trained_by_something(cls, recipe: str | None, info: ValidationInfo) -> str | None:
        is_assistant = info.data.get("teacher") is not None
        if recipe is None and info.data.get("weights") == "train" and "teacher" in info.data and not is_assistant:
            raise ValueError("must name the recipe that trains the teacher because teacher.weights is 'train'")
        if recipe is not None and is_assistant:
            raise ValueError("must be left out: an assistant is trained with the losses and the schedule of the recipe that it teaches in")
        return recipe


class OneOfSeveral(Teacher):
    """One of several networks that are learned from at the same time."""

    weight: Positive = Field(1.0, description="Its share of a weighted answer, or how often sampled ones are its own, beside the others' weights.")

    @field_validator("num_classes")
    @classmethod
    def _knows_the_datas_classes(cls, num_classes: int | None) -> int | None:
        if num_classes is not None:
            raise ValueError("must be left out: the answers of several teachers are combined class by class, so all must know the data's classes")
        return num_classes


def check_teachers(teachers: list[OneOfSeveral], teacher: Teacher | None) -> None:
    """Raises ValueError where a list of teachers is none, or where two of them would be in each other's way."""
    if len(teachers) < 2:
        raise ValueError("must name two networks at least; for one, set teacher")
    if teacher is not None:
        raise ValueError("says what teacher says too; leave out one of them (teacher: null removes an inherited one)")
    folders = [one.cache.folder for one in teachers if one.cache.folder is not None]
    if len(set(folders)) < len(folders):
        raise ValueError("must not keep the answers of two teachers in one folder; give each a cache.folder of its own, or leave them out")


def check_answers(answers: str, teachers: list[OneOfSeveral] | None) -> None:
    """Raises ValueError where there is nothing to be answered in this way, or where a weight would count for nothing."""
    if teachers is None and answers != "mean":
        raise ValueError("is about several teachers, and the recipe has no list of teachers; leave it out")
    if answers == "mean" and (weights := [one.weight for one in teachers or () if one.weight != 1]):
        raise ValueError(f"gives every teacher the same share, and a teacher has the weight {weights[0]:g}; set answers=weighted")


def check_chain(chain: list[str], teacher: Teacher | None, student: Student | None) -> None:
    """Raises ValueError where a chain does not fit the recipe's teacher, which is its first network, and its student, which is its last."""
    if len(chain) < 3:
        raise ValueError("must name three networks at least: a teacher, one or more assistants, and the student; for two, set teacher.model")
    if teacher is None:
        raise ValueError(f"needs a teacher section, which says how {chain[0]} is trained (recipe) or where its weights are")
    if teacher.teacher is not None:
        raise ValueError("says what teacher.teacher says too; leave out one of them")
    if teacher.cache.folder is not None:
        raise ValueError("has several teachers, whose answers can't share one folder; leave out teacher.cache.folder")
    if student is not None and student.model != chain[-1]:
        raise ValueError(f"must end in the student, and student.model is {student.model}; make them the same")
