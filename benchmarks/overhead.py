"""What the machinery costs when nothing is computed: `--plan`, `--help`, and a run that finds all cached.

    python benchmarks/overhead.py [WORKDIR]     a workdir with a finished digits run (default: runs)

The commands take turns, so that a busy machine slows all alike; medians of whole-process wall seconds.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "pipelines" / "run.py"), *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def main() -> None:
    workdir = sys.argv[1] if len(sys.argv) > 1 else "runs"
    digits = ("--pipeline", "digits", "--workdir", workdir)
    print("making sure that everything is cached")
    seconds(*digits)
    commands = {"--help": ("--help",), "--plan": (*digits, "--plan"), "all cached": digits}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, arguments in commands.items():
            taken[name].append(seconds(*arguments))
    for name, values in taken.items():
        spread = f"{min(values):.2f} - {max(values):.2f}"
        print(f"{name:<12}median {statistics.median(values):5.2f} s   ({spread}, {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
