"""What a sweep adds to its trials: wall time of trials one after another against the sum of their stages'.

python benchmarks/sweep.py [--trials N] [--smoke]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A fifth of the digits recipe: stages of seconds to a minute.
SHORT = (
    "stage1.steps=100",
    "stage2.steps=100",
    "sample.num_samples=500",
    "sample.num_selection=200",
    "evaluate.robust.attack=pgd",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--smoke", action="store_true", help="two steps of everything: all overhead")
    options = parser.parse_args()
    words = ["--smoke"] if options.smoke else [word for text in SHORT for word in ("--set", text)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "sweeps" / "tune_pgd.py"), *words, "--json"]
        command += ["--workdir", folder, "--trials", str(options.trials), "--concurrent", "1"]
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        wall = time.monotonic() - started
    result = json.loads(done.stdout.strip().splitlines()[-1])
    stages = sum(trial["seconds"] for trial in result["trials"])
    print(f"{options.trials} trials one after another: {wall:.1f} s; their stages: {stages:.1f} s")
    print(f"wall / stages {wall / stages:.2f}; beyond 1.10 of the stages: {wall - 1.1 * stages:.1f} s")
    print(f"executed {sum(result['executed'].values())} stages of {6 * options.trials}: {result['executed']}")


if __name__ == "__main__":
    main()
