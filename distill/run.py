"""accelerate launch distill/run.py --recipe r50_to_r18

Started by path, Python would look for modules in this folder first, where they are parts of a package. So the folder gives way to its parent.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from distill.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
