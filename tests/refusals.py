"""What every refusal at the command line has to be."""

from __future__ import annotations

from pathlib import Path


def check_failure(code: int, err: str, expected: int, parts: list[str]) -> None:
    """The exit code, one message with these parts, no traceback, and nothing left that looks like a result."""
    flat = " ".join(err.split())
    assert code == expected, err
    for part in parts:
        assert part in flat, f"{part!r} is not in: {flat}"
    assert "Traceback" not in err
    assert "unexpected" not in err
    assert flat.count("error:") == 1
    assert not list(Path("runs").glob("*/student.safetensors"))
    assert not list(Path("runs").glob("*/summary.json"))
