"""What the comment at the top of a recipe's file says: the command, and facts such as the paper. Nothing that a run looks at."""

from __future__ import annotations

from typing import NamedTuple

FACTS = ("Paper", "Reproduced", "Epoch", "Time", "Measured")
_COMMAND = "accelerate launch "
_FOR_EDITORS = "yaml-language-server:"


class Comment(NamedTuple):
    """The comment at the top of a file, without the #."""

    command: str  # that its first line gives; empty if it gives none
    facts: dict[str, str]  # those of FACTS that it gives, the lines of each joined
    notes: tuple[str, ...]  # all other lines, but empty ones


def top_comment(text: str) -> Comment:
    """Returns what is said in the lines before the first key. A fact goes on until the next one, or an empty line of the comment."""
    command, label = "", ""
    facts: dict[str, str] = {}
    notes: list[str] = []
    for line in top_lines(text):
        word, colon, rest = line.partition(":")
        if line.startswith(_FOR_EDITORS):
            continue
        if line.startswith(_COMMAND) and not (command or facts or notes):
            command = line
        elif colon and word in FACTS:
            label = word
            facts[label] = rest.strip()
        elif label and line:
            facts[label] = f"{facts[label]} {line}".strip()
        else:
            label = ""
            notes += [line] if line else []
    return Comment(command, facts, tuple(notes))


def top_lines(text: str) -> list[str]:
    """Returns the lines of the comment at the top, without the # and the spaces around."""
    lines = []
    for line in text.removeprefix("\ufeff").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return lines
