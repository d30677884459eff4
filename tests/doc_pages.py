"""The documentation as data: the headings, links and fenced blocks of README.md and of the pages in docs/."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt  # rich's and myst-parser's own reader of Markdown
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_READER = MarkdownIt("commonmark").enable("table")
_REASON = re.compile(r"<!-- not run:(.*)-->\s*$")
_FILE = re.compile(r"`([\w.-]+\.(?:py|yaml|toml|json))`:$")


@dataclass(frozen=True)
class Block:
    """A fenced block. reason: why it is not run, "" if none is given, None if it is run. file: what the line before it says that it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None
    file: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    lines = text.splitlines()
    for token in _tokens(text):
        if token.type == "fence":
            start = token.map[0]
            before = lines[start - 1].strip() if start else ""
            reason, file = _REASON.search(before), _FILE.search(before)
            words = token.info.split()
            found.append(Block(_name(page), start + 1, words[0] if words else "", token.content, reason and reason[1].strip(), file and file[1]))
    return found


def block(page: Path, language: str, containing: str) -> str:
    """The text of the one block of that language with these characters in it."""
    (found,) = [each.text for each in blocks(page) if each.language == language and containing in each.text]
    return found


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead."""
    return [target for token in _inline(page) for target in (token.attrs.get("href"), token.attrs.get("src")) if target]


def headings(page: Path) -> list[tuple[int, str]]:
    """(level, text without marks) of each heading."""
    found, tokens = [], _tokens(page.read_text(encoding="utf-8"))
    for opening, content in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            found.append((int(opening.tag[1]), "".join(part.content for part in content.children or ())))
    return found


def anchors(page: Path) -> set[str]:
    """What may follow # in a link to the page: each heading as GitHub writes it, with a number where it stands there already."""
    found: dict[str, int] = {}
    for _, text in headings(page):
        slug = slug_of(text)
        found[slug] = found.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def slug_of(heading: str) -> str:
    """In lower case, without punctuation but - and _, with - for each space."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@functools.cache
def _tokens(text: str) -> list[Token]:
    return _READER.parse(text)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page.read_text(encoding="utf-8")):
        yield from token.children or ()
