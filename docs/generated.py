"""What the scripts that write a page of these docs share: a table in Markdown, and writing the page or saying whether it is up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a "|" in a cell is shown, and divides nothing."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write_or_check(options: Sequence[str], usage: str, texts: Mapping[Path, str]) -> int:
    """Writes each text into its file, or with --check compares them and says which differ. The exit code: 1 where one differs.

    usage is what an unknown option is answered with; its first word after "python" is the script that writes the files.
    """
    if list(options) not in ([], ["--check"]):
        raise SystemExit(usage)
    if not options:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    script = usage.split()[1]
    print(f"not what would be written: {', '.join(stale)}; run python {script}" if stale else f"{', '.join(path.name for path in texts)}: up to date")
    return 1 if stale else 0
