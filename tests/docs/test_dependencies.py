"""docs/dependencies.md has every package that pyproject.toml asks for, with a reason and the version that is asked for."""

from __future__ import annotations

import re

import pytest
import yaml
from doc_pages import ROOT
from requirements import EXTRAS, PROJECT, requirements

PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
DEVELOPMENT = PAGE.partition("\nFor development")[2]


def reasons(package: str) -> list[str]:
    """What the page says of a package: the last cell of its row, or the part of a sentence about development."""
    name = re.compile(rf"(?<![\w-]){re.escape(package)}(?![\w-])", re.IGNORECASE)
    cells = [row[-1] for row in ROWS if any(name.search(cell) for cell in row[:-1])]
    return cells + [part for part in re.split(r"[;.] ", DEVELOPMENT) if name.search(part)]


@pytest.mark.parametrize("package", requirements())
def test_each_package_has_a_reason(package):
    assert any(len(reason.split()) > 1 for reason in reasons(package)), f"docs/dependencies.md does not say what {package} is for"


def test_versions_on_the_page_are_those_asked_for():
    written = dict(re.findall(r"([\w-]+) >= ([\d.]*\d)", PAGE))
    asked = requirements()
    assert {name: asked.get(name) for name in written} == written


def test_each_extra_is_on_the_page():
    assert not [name for name in EXTRAS if f'pip install -e ".[{name}]"' not in PAGE]


def test_citation_has_the_version_and_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
