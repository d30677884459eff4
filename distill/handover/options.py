"""The options of `distill export`, `push` and `predict`. No torch: a wrong word is answered at once."""

from __future__ import annotations

import argparse

from distill.handover.formats import FORMATS

EXPORT_HELP = """\
examples:
  distill export runs/r50_to_r18-seed0 --to safetensors -o student      weights, config.json, and a card that says where they are from
  distill export runs/r50_to_r18-seed0 --to timm -o student             timm.create_model("local-dir:student", pretrained=True)
  distill export runs/r50_to_r18-seed0 --to onnx -o student data.root=~/pictures     the run's data have moved
"""
PUSH_HELP = """\
examples:
  distill push runs/r50_to_r18-seed0 me/small-resnet --private          as a folder for timm, checked before
  distill push student me/small-resnet                                  an export that is there
The token is that of `hf auth login` or of HF_TOKEN, or in the file that --token-file names.
"""
PREDICT_HELP = """\
examples:
  distill predict runs/r50_to_r18-seed0 picture.jpg
  distill predict student ~/pictures/new *.png --top 3                  an export, and all pictures of a folder
"""
_PLUGIN = "your own data sources; may be repeated"


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Adds all but --traceback."""
    parser.add_argument(
        "overrides", nargs="*", metavar="RUN [KEY=VALUE ...]", help="a finished run's folder; data.KEY=VALUE says where its data are now"
    )
    parser.add_argument("--to", required=True, choices=list(FORMATS), help="; ".join(f"{one.name}: {one.words}" for one in FORMATS.values()))
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="new, empty, or an earlier export")
    words = "share of val pictures on which it must name the run's class, in place of the format's own limits"
    parser.add_argument("--min-agreement", type=float, metavar="SHARE", help=words)
    _add_common(parser)


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Adds all but --traceback."""
    parser.add_argument("overrides", nargs="*", metavar="RUN|FOLDER ORG/NAME", help="a finished run or an export; and the model's name on the hub")
    parser.add_argument("--private", action="store_true", help="a new model is private")
    parser.add_argument("--revision", metavar="BRANCH", help="a branch other than main; made if it is not there")
    parser.add_argument("--token-file", metavar="FILE", help="holds the token, and nothing else")
    _add_common(parser)


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Adds all but --traceback."""
    words = "a finished run or an export; then files, and folders of them"
    parser.add_argument("overrides", nargs="*", metavar="RUN|FOLDER PICTURE ...", help=words)
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes that are named of each picture (default 1)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures that are asked of at once (default 64)")
    words = "read an export that is a program of torch (.pt2), which can do anything when it's loaded"
    parser.add_argument("--trust", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_PLUGIN)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-check", action="store_true", help="don't compare it with the run on val, for which the data must be here")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_PLUGIN)
