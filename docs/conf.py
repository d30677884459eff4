"""How Sphinx makes a site of these pages: `python -m sphinx -W --keep-going -b html docs site`, from the checkout's folder.

The pages are plain Markdown that any forge shows; what a site needs beside it is added here while they are read.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import distill  # noqa: E402

project = "distill"
copyright = "the distill authors; Apache-2.0"
version = release = distill.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures: torch's and Python's own pages are on the network, which a build does not use
myst_heading_anchors = 6
smartquotes = False  # what stands between quotes is often to be typed
html_theme = "furo"
html_title = "distill"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
default_role = "code"  # what a docstring has between backticks is code, as in Markdown
maximum_signature_line_length = 80


def setup(app: Sphinx) -> None:
    app.connect("source-read", _complete_page)
    app.connect("autodoc-process-docstring", _as_rst)


def _complete_page(app: Sphinx, page: str, source: list[str]) -> None:
    """The README stands in for readme.md, and links to it lead there; the lists of the index are the site's navigation."""
    text = source[0]
    if page == "readme":
        app.env.note_dependency(str(ROOT / "README.md"))
        text = _moved((ROOT / "README.md").read_text(encoding="utf-8"))
    source[0] = re.sub(r"\]\(\.\./README\.md", "](readme.md", text)
    if page == "index":
        source[0] += _navigation(text)


def _moved(text: str) -> str:
    """A page of the checkout's folder with its links as they are seen from docs/."""
    return re.sub(r"\]\((?!#|\w+:)(docs/)?", lambda link: "](" if link[1] else "](../", text)


def _navigation(index: str) -> str:
    """A hidden toctree for each "## group" of the index, of the pages that its list links to."""
    groups = re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", index, re.MULTILINE | re.DOTALL)
    text = ""
    for caption, entries in groups:
        pages = "\n".join(f"{title} <{page}>" for title, page in re.findall(r"^- \[(.*?)\]\((.*?)\.md\)", entries, re.MULTILINE))
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"
    return text


def _as_rst(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Our docstrings are plain text: a star is a star, and lines of two columns are a list."""
    text = "\n".join(lines).replace("*", r"\*")
    lines[:] = re.sub(r"^(\w[\w ]*?) {2,}(\S.*)$", r"\n- **\1**: \2\n", text, flags=re.MULTILINE).splitlines()
