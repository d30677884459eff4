"""What pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib

from doc_pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements() -> dict[str, str]:
    """Package -> its lowest version, extras included."""
    found = {}
    for each in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        if not each.startswith(f"{PROJECT['name']}["):
            name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups()
            found[name] = version
    return found
