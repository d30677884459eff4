"""Goes through every picture of a folder and says what a training run will make of it: what would stop it, what harms, what is good to know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distill.data.class_folders import PARTS, Survey
from distill.data.decoding import Decoder
from distill.data.picture_facts import SMALL, PictureFacts, look_at
from distill.data.processes import in_processes
from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError

FEW = 10  # training pictures: a class with fewer is named
_AT_ONCE = 16  # pictures that a process takes

STOPS, HARMS, NOTE = "stops a run", "harms", "note"  # how much a finding matters


@dataclass(frozen=True)
class Finding:
    """found: what has it, each a file's name below the root, a list of names of equal pictures, or a sentence. meaning: for a training run."""

    kind: str
    severity: str
    title: str
    meaning: str
    found: Sequence[str | list[str]] = ()


@dataclass(frozen=True)
class Report:
    """num_pictures: of each part that has a folder; "train" alone where classes lie directly in the root."""

    root: str
    num_classes: int
    num_pictures: dict[str, int]
    findings: list[Finding]  # the worst first

    @property
    def would_stop(self) -> bool:
        """Whether a run with this folder as it is would end with an error."""
        return any(finding.severity == STOPS for finding in self.findings)


_MEND = "Mend or remove them; data.on_bad_image=skip puts other pictures of the class in their places, up to 0.1% of a part."
# kind: (severity, title, meaning), the worst first
_KINDS: dict[str, tuple[str, str, str]] = {
    "unusable": (STOPS, "the folder can't be used as it is", "A run with data.source=imagefolder ends with this error."),
    "classes": (STOPS, "parts with different classes", "train, val and test must have the same class folders: rename or complete them."),
    "truncated": (STOPS, "cut short", "The end of the file is missing, as after a broken download, and a run stops at the first of them. " + _MEND),
    "broken": (STOPS, "broken", "They can't be decoded, and a run stops at the first of them. " + _MEND),
    "across_parts": (
        HARMS,
        "the same picture in several parts",
        "The worst of duplicates: what is trained on is tested on, and the accuracy comes out too high. Keep one of each.",
    ),
    "across_classes": (
        HARMS,
        "the same picture in several classes",
        "At most one of the labels is right, and no student can learn both. Keep one of each.",
    ),
    "within_class": (HARMS, "the same picture several times in a class", "It counts as often as it is there."),
    "few": (
        HARMS,
        f"classes with fewer than {FEW} training pictures",
        "So few can hardly be learned from, and some of them are set aside where val or test is cut.",
    ),
    "small": (
        HARMS,
        f"very small: a side of less than {SMALL} pixels",
        "Each is enlarged to data.image_size, which adds nothing that could be learned.",
    ),
    "unlabelled": (NOTE, "training pictures without a class", "They need data.labels=none: the student then learns from the teacher alone."),
    "passed_over": (
        NOTE,
        "files that are passed over",
        "They are no pictures by their names, or lie in no class's folder: training never sees them.",
    ),
    "misnamed": (NOTE, "of another format than the name says", "They are read by what is in them; other programs may not."),
    "turned": (NOTE, "turned by their EXIF data", "They are turned upright when they are read."),
    "animated": (NOTE, "several pictures in one file", "The first one is used."),
    "greyscale": (NOTE, "greyscale", "The one channel is used for red, green and blue."),
    "cmyk": (NOTE, "CMYK, made for print", "They become RGB without a colour profile, so that colours may look off."),
    "deep": (NOTE, "16 bits a channel", "The upper 8 bits are used."),
    "transparent": (NOTE, "with transparency", "It is dropped: what was hidden under it shows."),
}
Found = Mapping[str, Sequence[str | list[str]]]  # kind -> what was found: a text, or the texts of a group
_CUT_LATER = " val or test is cut from the same folders, so one copy may be trained on and another one tested on. Keep one of each."


def check_folder(root: Path, files: Survey, decoder: Decoder, *, workers: int = 0, progress: Callable[[int], None] = lambda num: None) -> Report:
    """All that is to be said of the folder. files: what `survey` found in it. progress: told how many more pictures are done."""
    places = [(part, name, path) for part, classes in files.parts.items() for name, pictures in classes.items() for path in pictures]
    paths = [path for _, _, path in places]
    facts: dict[Path, PictureFacts] = {}
    for looked_at in in_processes(partial(look_at, decoder), (paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)), workers):
        facts |= {fact.path: fact for fact in looked_at}
        progress(len(looked_at))
    found = {**_about_folders(root, files), **_about_pictures(root, [facts[path] for path in paths]), **_duplicates(root, places, facts)}
    findings = [Finding(kind, *_KINDS[kind], found[kind]) for kind in _KINDS if found.get(kind)]
    num_pictures = {part: sum(map(len, classes.values())) for part, classes in files.parts.items()}
    return Report(str(root), len(files.class_names), num_pictures, [_with_cut(finding, files) for finding in findings])


def _about_folders(root: Path, files: Survey) -> Found:
    """What the names alone tell."""
    training = files.parts.get("train", {})
    found: dict[str, list[str]] = {
        "classes": _different_classes(files),
        "unlabelled": _names(root, training.get("", [])),
        "few": [f"{name} ({len(pictures)})" for name, pictures in training.items() if name and 0 < len(pictures) < FEW],
        "passed_over": _names(root, files.passed_over),
    }
    if not found["classes"]:  # which are named better here
        try:
            ImageFolder(str(root)).check()
        except DataError as error:
            found["unusable"] = [str(error)]
    return found


def _different_classes(files: Survey) -> list[str]:
    """A sentence for each part whose classes are not those of the training pictures."""
    expected, sentences = set(files.class_names), []
    for part, classes in files.parts.items():
        there = set(classes) - {""}
        if there != expected and not (part == "train" and "" in classes):
            lacks, more = sorted(expected - there), sorted(there - expected)
            sentences.append(f"{part}: " + "; ".join([*(f"{name} is missing" for name in lacks), *(f"{name} is only there" for name in more)]))
    return sentences


def _about_pictures(root: Path, facts: Iterable[PictureFacts]) -> Found:
    found: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        for trait in fact.traits:
            found[trait] += _names(root, [fact.path])
    return found


def _duplicates(root: Path, places: Iterable[tuple[str, str, Path]], facts: dict[Path, PictureFacts]) -> Found:
    """Files with equal pixels, each group under the worst that is true of it. places: (part, class, file)."""
    groups: dict[bytes, list[tuple[str, str, Path]]] = defaultdict(list)
    for place in places:
        if content := facts[place[2]].content:
            groups[content].append(place)
    found: dict[str, list[list[str]]] = defaultdict(list)
    for group in groups.values():
        if len(group) > 1:
            parts, classes = ({place[column] for place in group} for column in (0, 1))
            kind = "across_parts" if len(parts) > 1 else "across_classes" if len(classes) > 1 else "within_class"
            found[kind].append(_names(root, [path for _, _, path in group]))
    return found


def _with_cut(finding: Finding, files: Survey) -> Finding:
    if finding.kind != "within_class" or len(files.parts) == len(PARTS):
        return finding
    return Finding(finding.kind, finding.severity, finding.title, finding.meaning + _CUT_LATER, finding.found)


def _names(root: Path, paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]
