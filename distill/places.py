"""Where distill keeps on this machine what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """$DISTILL_CACHE/name, else ~/.cache/distill/name (XDG_CACHE_HOME is respected). It need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill"
    return Path(os.environ.get("DISTILL_CACHE") or cache) / name


def expanded(path: str | Path) -> Path:
    """With ~ as the home folder, where no shell has put it in; a name such as ~run that no user has is left as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
