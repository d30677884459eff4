"""The three commands: first their words are understood, without torch; then what they need is imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from distill.handover.words import export_wish, predict_wish, push_wish


def export(options: argparse.Namespace, plugins: Sequence[str]) -> None:
    """`distill export`. Raises RecipeError, DataError or DistillError."""
    wish = export_wish(options, plugins)
    from distill.handover.export import export

    export(wish)


def push(options: argparse.Namespace, plugins: Sequence[str]) -> None:
    """`distill push`. Raises RecipeError, DataError or DistillError."""
    wish = push_wish(options, plugins)
    from distill.handover.push import push

    push(wish)


def predict(options: argparse.Namespace, plugins: Sequence[str]) -> None:
    """`distill predict`. Raises RecipeError or DataError."""
    wish = predict_wish(options, plugins)
    from distill.handover.predict import predict

    predict(wish)
