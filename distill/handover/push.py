"""`distill push`: an export, or a run as a folder for timm, to the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distill import record
from distill.engine.runtime import prepare_process, processes
from distill.engine.stopping import Stopper
from distill.errors import DataError, RecipeError
from distill.handover.config import is_export, read_config
from distill.handover.export import export_student
from distill.handover.formats import FORMATS
from distill.handover.hub_errors import in_words
from distill.handover.placing import RECORD_FILE
from distill.handover.student import open_student, run_target
from distill.handover.timm_folder import why_not
from distill.handover.words import PushWish
from distill.places import expanded
from distill.report.console import make_console, printable
from distill.resolve import Catalogue
from distill.running import Job

_MAIN = "main"


def push(wish: PushWish) -> None:
    """Prints the address of what was pushed. Raises RecipeError, DataError, or DistillError where the hub does not take it."""
    token = _token(wish.token_file)
    with _folder(wish) as folder:
        name = read_config(folder).model
        address = _upload(folder, wish, token, f"{name}, by distill")
    print(printable(address))


@contextlib.contextmanager
def _folder(wish: PushWish) -> Iterator[Path]:
    """The export that is named; or that of the run that is named, made for the time being."""
    source = expanded(wish.source)
    if is_export(source):
        if wish.overrides:
            raise RecipeError(f"{wish.source} is an export already: leave out {' '.join(wish.overrides)}")
        _refuse_changed(source)
        yield source
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "student"
        _export(wish, folder)
        yield folder


def _export(wish: PushWish, folder: Path) -> None:
    prepare_process()
    with Stopper() as stopper:
        job = Job(Catalogue(wish.plugins), processes(), make_console(is_main=True), stopper)
        student = open_student(run_target(wish.source, wish.overrides, job, "push"), job, looks_at_data=wish.checks)
        if why_not(student.config):
            raise RecipeError(
                f"{wish.source}: timm can't build its {student.config.model}, and a run is pushed as a folder for timm; push an export instead: "
                f"distill export {wish.source} --to safetensors -o student && distill push student {wish.repository}"
            )
        export_student(student, FORMATS["timm"], folder, job.console)
    for note in student.notes:
        job.console.print(f"note: {printable(note)}", style="yellow", soft_wrap=True)


def _refuse_changed(folder: Path) -> None:
    """Raises DataError unless the folder holds what the export wrote, and nothing else: all of it will be public."""
    own = record.read_json(folder / RECORD_FILE).get("files")
    if not isinstance(own, dict):
        raise DataError(f"{folder} has no {RECORD_FILE} that can be read: it is no whole export; export the student again")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {RECORD_FILE}
    if there != own.keys():
        what = [
            *(f"{name} is missing" for name in sorted(own.keys() - there)),
            *(f"{name} is not of the export" for name in sorted(there - own.keys())),
        ]
        raise DataError(f"{folder} is not as it was exported: {', '.join(what[:5])}; export the student again, or move away what is not part of it")


def _token(file: str | None) -> str | None:
    """None for the hub's own places: HF_TOKEN, or what `hf auth login` has kept. Raises RecipeError for a file that holds none."""
    if file is None:
        return None
    try:
        words = expanded(file).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--token-file {file} can't be read ({type(error).__name__}); it holds a token of the hub, and nothing else") from error
    if len(words) != 1:
        raise RecipeError(f"--token-file {file} has {len(words)} words in it; it holds a token of the hub, and nothing else")
    return words[0]


def _upload(folder: Path, wish: PushWish, token: str | None, message: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name="distill")
    try:
        api.create_repo(wish.repository, private=wish.private or None, exist_ok=True)
        if wish.revision not in (None, _MAIN):
            api.create_branch(wish.repository, branch=wish.revision, exist_ok=True)
        found = api.upload_folder(repo_id=wish.repository, folder_path=folder, revision=wish.revision, commit_message=message)
    except Exception as error:  # of the hub's library, its HTTP library, the network and the disk
        raise in_words(error, wish, api.endpoint, token) from None  # a traceback could show what was sent
    return f"{found.commit_url}"
