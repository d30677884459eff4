"""Does the package work with the oldest versions that pyproject.toml allows? Run before each release:

    python tests/lower_bounds.py /tmp/oldest              # an environment with exactly these, 7 GB, and a selection of the tests; half an hour
    python tests/lower_bounds.py /tmp/oldest onnx int8    # these extras too

The environment stays, so that one test can be run again in it; delete the folder afterwards. Ends with pytest's exit code.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "statsmodels")  # of the dev extra: what the selection needs

# What touches most of what the libraries are used for. Not the losses' own tests: their witnesses are torchdistill and a module that timm has only
# in later versions.
SELECTION = (
    "tests/models",
    "tests/losses/test_contract.py",
    "tests/losses/test_crd.py",
    "tests/losses/test_keyed.py",
    "tests/engine",
    "tests/build",
    "tests/data",
    "tests/report",
    "tests/test_recipe.py",
    "tests/test_recipe_files.py",
    "tests/test_checkpoints.py",
    "tests/test_job.py",
    "tests/test_launch.py",
    "tests/test_models_command.py",
    "tests/test_export_command.py",
)
QUIET = "ignore:The given buffer is not writable"  # torch 2.10 says it of what it reads itself
_TIMED = "tests/engine/test_step_gates.py::test_what_is_timed_side_by_side_computes_the_same"
WITNESSES = [f"{_TIMED}[{name}]" for name in ("timm_default", "timm_best", "torchdistill_shipped")]  # of later versions, as above


def oldest(requirement: str) -> str:
    """ "torch>=2.10" -> "torch==2.10". Raises ValueError for a requirement without a lower bound."""
    name, bound, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(>=|==)?([\w.]*).*", requirement).groups()
    if bound is None:
        raise ValueError(f"{requirement} has no lower bound")
    return f"{name}=={version}"


def pins(extras: list[str]) -> list[str]:
    """The oldest versions of what the package needs, of these extras, and of the tools for the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    tools = [one for one in optional["dev"] if re.split(r"[>=\[]", one)[0] in TOOLS]
    return [oldest(one) for one in (*project["dependencies"], *tools, *(one for extra in extras for one in optional[extra]))]


def main() -> int:
    """Makes the environment where it is not there yet, installs, and runs the tests; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the environment is made")
    parser.add_argument("extras", nargs="*", help="extras that are installed too")
    parser.add_argument("--tests", nargs="+", default=SELECTION, help="other tests than the selection")
    options = parser.parse_args()
    python = options.folder / "bin" / "python"
    if not python.exists():
        venv.create(options.folder, with_pip=True)
    wanted = pins(options.extras)
    print("\n".join(wanted), flush=True)
    # --no-compile: bytecode for all of torch takes longer than the tests, which need little of it
    subprocess.run([python, "-m", "pip", "install", "--no-compile", *wanted, "hatchling"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "-e", "."], cwd=ROOT, check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    pytest = [python, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-W", QUIET, *(f"--deselect={one}" for one in WITNESSES)]
    return subprocess.run([*pytest, *options.tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
