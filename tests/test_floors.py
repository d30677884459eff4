"""The shape of the code: imports go down, no cycles, no file that hides a library when run.py is started by path."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distill"

# The longest matching prefix decides. A module may import from lower floors, and from its own floor within one folder.
FLOORS = {
    "distill": 0,
    "distill.errors": 0,
    "distill.places": 0,
    "distill.structures": 0,
    "distill.suggestion": 0,
    "distill.record": 0,
    "distill.recipe": 0,
    "distill.recipe_files": 0,
    "distill.recipe_search": 0,
    "distill.recipe_yaml": 0,
    "distill.recipe_types": 0,
    "distill.recipe_networks": 0,
    "distill.recipe_train": 0,
    "distill.recipe_teachers": 0,
    "distill.recipe_identity": 0,
    "distill.recipe_losses": 0,
    "distill.recipe_comments": 0,
    "distill.recipe_copy": 0,
    "distill.student_alone": 0,
    "distill.models": 1,
    "distill.losses.base": 1,
    "distill.losses._keyed": 1,
    "distill.data.random_rows": 1,
    "distill.data.resizing": 1,
    "distill.data.colour": 1,
    "distill.data.auto_augment": 1,
    "distill.data.erasing": 1,
    "distill.data.mixing": 1,
    "distill.data.views": 1,
    "distill.data.sampler": 1,
    "distill.data.sources.base": 1,
    "distill.losses": 2,
    "distill.data": 2,
    "distill.engine.runtime": 2,
    "distill.engine.network": 2,
    "distill.engine.optim": 2,
    "distill.engine.metrics": 2,
    "distill.engine.teacher": 2,
    "distill.engine": 3,
    "distill.engine.trainer": 4,
    "distill.resolve": 4,
    "distill.report": 4,
    "distill.testing": 4,
    "distill.build": 5,
    "distill.loss_cards": 5,
    "distill.checkpoints": 2,
    "distill.running": 5,
    "distill.run_folders": 5,
    "distill.fast": 6,
    "distill.fast_compile": 6,
    "distill.out_of_memory": 6,
    "distill.run_state": 6,
    "distill.teacher_check": 6,
    "distill.training_run": 6,
    "distill.run_results": 6,
    "distill.preparation": 6,
    "distill.teacher_store": 6,
    "distill.job": 6,
    "distill.machines": 6,
    "distill.losses_command": 6,
    "distill.recipes_command": 6,
    "distill.recipe_schema": 6,
    "distill.models_command": 6,
    "distill.data_check_command": 6,
    "distill.data_prepare_command": 6,
    "distill.new_loss": 6,
    "distill.doctor": 7,
    "distill.study": 7,
    "distill.caching": 7,
    "distill.evaluating": 7,
    "distill.handover": 8,
    "distill.commands": 9,
    "distill.cli": 9,
    "distill.cli_options": 9,
    "distill.recipes_options": 9,
    "distill.run": 9,
    "distill.__main__": 9,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor(module: str) -> int:
    prefix = module
    while prefix not in FLOORS or (prefix == "distill" and module != "distill"):
        assert "." in prefix, f"{module} has no floor: add it to FLOORS"
        prefix = prefix.rpartition(".")[0]
    return FLOORS[prefix]


def imports(module: str) -> set[str]:
    """Modules of ours that are imported when this one is; late imports inside functions are counted too, except those of the lazy package."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_or_stay_within_a_folder(module):
    for imported in imports(module):
        same_folder = imported.split(".")[1:2] == module.split(".")[1:2] or imported.count(".") == module.count(".") == 1
        assert floor(imported) < floor(module) or (floor(imported) == floor(module) and same_folder), (
            f"{module} imports {imported}, which is not below"
        )


def test_there_is_no_import_cycle():
    done, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, f"cycle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            path.append(module)
            for imported in sorted(imports(module)):
                visit(imported)
            path.pop()
            done.add(module)

    for module in MODULES:
        visit(module)
    assert len(done) == len(MODULES)


def test_nothing_in_distill_hides_a_library_when_run_by_path():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    taken = set(sys.stdlib_module_names) | {name.lower() for name in metadata.packages_distributions()}
    assert any(requirement.startswith("torch") for requirement in project["dependencies"])
    taken -= {"distill"}
    own = {path.stem.lower() for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    # the shadowing matters for what is imported as a plain name; these installed names are none of our dependencies' modules
    clashes = {name for name in own & taken if not name.startswith("_")}
    assert not clashes, f"{clashes} would hide a library of the same name in `accelerate launch distill/run.py`"


def test_core_files_stay_short_enough_to_read():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    too_long = {name: length for name, length in lengths.items() if length > (100 if name.startswith("distill/losses/") else 250)}
    assert not too_long
