"""Every link of the documentation leads somewhere, on a forge and on the site, and every page can be found; no network is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import NAMES, PAGES, README, ROOT, anchors, headings, links, slug_of

INDEX = ROOT / "docs" / "index.md"


def broken(page: Path) -> list[str]:
    """The links of a page to files or headings that are not there."""
    found = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.is_relative_to(ROOT if page.is_relative_to(ROOT) else page.parent):
            found.append(f"{link} leads out of the checkout")
        elif not target.is_file():
            found.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(target):
            found.append(f"{link}: {target.name} has no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_of_the_page_leads_to_a_file_and_a_heading_that_are_there(page):
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_page_begins_with_its_only_title(page):
    assert page.read_text(encoding="utf-8").startswith("# ")
    assert [level for level, _ in headings(page)].count(1) == 1


def test_every_page_is_reached_from_the_index():
    reached, to_read = set(), [INDEX]
    while to_read:
        page = to_read.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link}
        to_read += [target for target in targets - reached if target.suffix == ".md"]
    assert {page for page in PAGES if page != README} <= reached


def test_index_lists_every_page_once():
    listed = [link for link in links(INDEX) if link.endswith(".md")]
    assert sorted(listed) == sorted({page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"})


@pytest.mark.parametrize(
    "heading, slug",  # as GitHub has them
    [
        ("Own loop", "own-loop"),
        ("What is `data.labels=none`?", "what-is-datalabelsnone"),
        ("Views: how training pictures are varied", "views-how-training-pictures-are-varied"),
        ("ls_kd", "ls_kd"),
        ("A & B", "a--b"),
        ("top-1, in %", "top-1-in-"),
    ],
)
def test_slug_of_a_heading_is_githubs(heading, slug):
    assert slug_of(heading.replace("`", "")) == slug


def test_what_is_broken_in_a_page_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# Other\n\n## Twice\n\n## Twice\n", encoding="utf-8")
    (tmp_path / "picture.png").touch()
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#twice-1) [c](#here) ![d](picture.png) [e](https://example.org/x#y)"
    code = "`[x](nowhere.md)`\n\n```text\n[x](nowhere.md)\n```"
    page.write_text(f"# Page\n\n## Here\n{good}\n\n{code}\n", encoding="utf-8")
    assert broken(page) == []
    page.write_text("# Page\n[a](gone.md) [b](other.md#thrice) [c](#here) ![d](gone.png) [e](../out.md) [f](other.md#twice-2)", encoding="utf-8")
    assert [line.partition(":")[0].partition(" ")[0] for line in broken(page)] == [
        "gone.md",
        "other.md#thrice",
        "#here",
        "gone.png",
        "../out.md",
        "other.md#twice-2",
    ]
