"""python -m benchmarks.loss_runs --results FILE [--seeds 0] [--losses kd,dkd,...] [--weight "auto(0.5)"]

Trains the recipe of every loss on the sample, beside the student alone, and writes a row as each finishes. Started again, it goes on where it
stopped: what stands in the results is not trained again. One teacher for all, which is trained once and kept. About a minute and a half a row on two
cores. docs/losses.md shows docs/losses_results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from distill.recipe_files import list_recipes
from distill.record import ENVIRONMENT_FILE, SUMMARY_FILE, read_json

FOLDER = "losses/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one a finished run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--seeds", default="0", help="numbers with commas between them")
    parser.add_argument("--losses", default="", help="names with commas between them; all if empty")
    parser.add_argument("--weight", default="", help="the loss's weight in place of its recipe's")
    options = parser.parse_args()
    names = options.losses.split(",") if options.losses else [name.removeprefix(FOLDER) for name in list_recipes() if name.startswith(FOLDER)]
    for seed in map(int, options.seeds.split(",")):
        for name in names:
            if (name, seed, options.weight) not in set(finished(options.results)):
                row = run(name, seed, options.runs, options.weight)
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def finished(results: Path) -> Iterator[tuple[str, int, str]]:
    """(loss, seed, weight or "") of every row, failed ones included: a failure is a result until its row is removed."""
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["loss"], row["seed"], row.get("weight", "")


def run(name: str, seed: int, runs: Path, weight: str) -> dict:
    """One row. A process of its own, so that a loss that fails takes no other with it."""
    key = {"loss": name, "seed": seed} | ({"weight": weight} if weight else {})
    run_name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([name, f"seed{seed}", *([weight] if weight else [])]))
    command = [sys.executable, "-m", "distill", "train", "--recipe", FOLDER + name, f"seed={seed}", f"runs_dir={runs}", f"run_name={run_name}"]
    command += [f"losses.{name}.weight={weight}"] if weight else []
    print(" ".join(command[2:]), file=sys.stderr, flush=True)
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        return key | {"error": result.stderr.strip().splitlines()[-1]}
    summary, environment = read_json(runs / run_name / SUMMARY_FILE), read_json(runs / run_name / ENVIRONMENT_FILE)
    row = dict(key)
    for role in ("distilled", "alone", "teacher"):
        if role in summary:
            row |= {f"{part}_top1_{role}": summary[role][f"{part}_top1"] for part in ("val", "test")}
    hardware = "{processor}, {num_cores} core(s), {precision}".format(**environment)
    return row | {"seconds": summary["seconds"], "torch": environment["versions"]["torch"], "hardware": hardware, "created": summary["created"]}


if __name__ == "__main__":
    main()
