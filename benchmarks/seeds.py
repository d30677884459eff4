"""for seed in 0 1 2 3 4; do distill train --recipe r50_to_r18 seed=$seed; done; python -m benchmarks.seeds runs/r50_to_r18-seed?

What distilling brings over the student alone, over several seeds: each seed's pair of runs has the same initial weights, order, views and schedule.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from scipy import stats


def main(folders: list[str]) -> None:
    if len(folders) < 2:
        raise SystemExit(__doc__)
    rows = [json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    scores = {role: 100 * np.array([row[role]["test_top1"] for row in rows]) for role in ("teacher", "alone", "distilled")}
    for number, row in enumerate(rows):
        print(f"seed {row['seed']}: " + ", ".join(f"{role} {values[number]:.2f}" for role, values in scores.items()))
    for role in ("alone", "distilled"):
        print(f"{role}: test top-1 {scores[role].mean():.2f} (standard deviation {scores[role].std(ddof=1):.2f}, n = {len(rows)})")
    gained = scores["distilled"] - scores["alone"]
    low, high = stats.t.interval(0.95, len(gained) - 1, gained.mean(), stats.sem(gained))
    p_value = stats.ttest_rel(scores["distilled"], scores["alone"]).pvalue
    print(f"distilled - alone: {gained.mean():+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, paired t, p = {p_value:.2g}, n = {len(rows)})")


if __name__ == "__main__":
    main(sys.argv[1:])
