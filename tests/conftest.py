"""What all tests share: a trained-teacher cache and a working folder of their own, and a way to run the command line in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import cli

ROOT = Path(__file__).resolve().parent.parent
TINY = ["data.source=synthetic", "data.global_batch_size=8", "train.epochs=1", "train.warmup_epochs=0", "train.log_every=1"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test sees the user's teachers or writes into the checkout."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTILL_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def distill(capsys):
    """distill("train", "--recipe", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
