"""The command line: `distill train --recipe NAME`. Thin: it reads arguments, calls, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from distill.cli_options import parse
from distill.errors import DistillError, StoppedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or 1 failed (`recipes diff`: they differ), 2 wrong recipe or usage, 3 unusable data, 4 diverged,
    75 stopped (to be gone on with), 130 interrupted."""
    options = parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        code = options.run(options) or 0  # a command whose answer is in its exit code returns that
    except StoppedError as error:
        if _is_main():
            print(f"{error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except DistillError as error:
        if _is_main() or not error.is_shared:
            _print_error(str(error), options)
        code = error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted", options)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still unwritten would fail again when Python ends
        return 1  # as rich does
    except Exception as error:
        if not _wants_traceback(options):
            _print_error(
                f"unexpected {type(error).__name__}: {error}\n(the traceback is shown with --traceback; this is a defect, please report it)", options
            )
            return 1
        raise
    _leave_processes()
    return code


def _leave_processes() -> None:
    """A process that ends in the middle of its group is aborted by torch now and then: its threads look for an interpreter that is gone.
    After an interrupt or an unexpected error others may still wait for this one, and the group would wait for them."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _wants_traceback(options: argparse.Namespace) -> bool:
    return options.traceback or bool(os.environ.get("DISTILL_DEBUG"))


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_error(message: str, options: argparse.Namespace) -> None:
    if _wants_traceback(options):
        traceback.print_exc()
    who = "" if _is_main() else f" (process {os.environ['RANK']})"
    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in message)  # names can hold escape codes
    print(f"error{who}: {shown}", file=sys.stderr, flush=True)
