"""AutoAttack on one worker and on two: seconds, and whether they find the same.

    python benchmarks/evaluation.py [--images 800] [--rounds 2]

The model is the digits recipe's stage 2, with half of the images to test on. It is trained first, into
runs/evaluation, where the next call finds it. Both ways take turns in one Ray session whose processes have
started. A worker has one CPU and one thread.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from pipelines.compute.cluster import session
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext, select
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.stages.classifier_parts import ClassifierMaker
from pipelines.stages.parts import Part, Parts

ROOT = Path(__file__).resolve().parents[1]
CHANGES = ("data.test_fraction=0.5", "evaluate.stage1=false")
BATCH = 50


def trained() -> Mapping[str, Path]:
    """The inputs of the stage, from a run that is made once."""
    command = [
        sys.executable,
        "pipelines/run.py",
        "--pipeline",
        "digits",
        "--until",
        "train_stage2",
        "--json",
    ]
    command += ["--workdir", str(ROOT / "runs" / "evaluation")]
    command += [word for change in CHANGES for word in ("--set", change)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    folders = {row["name"]: row["artifact"] for row in json.loads(done.stdout.splitlines()[-1])["stages"]}
    return {"data": Path(folders["preprocess"]), "model": Path(folders["train_stage2"])}


def attack(inputs: Mapping[str, Path], num_workers: int, num_images: int) -> tuple[list[Part], float]:
    """The finished parts and the seconds that they took; their folder is new."""
    recipe, problems = load_recipe("digits", (*CHANGES, f"compute.num_workers={num_workers}"))
    assert not problems
    settings = select(recipe.settings, build_graph(recipe.settings)["evaluate_classifier"].reads)
    folder = Path(tempfile.mkdtemp(prefix="evaluation-"))
    given = (settings, inputs, folder / "artifact", folder / "checkpoints", Silent(), {}, run_workers, spread)
    parts = Parts(StageContext(*given), ClassifierMaker)
    started = time.perf_counter()
    subset, budgets = np.arange(num_images), [0.75]
    made = parts.make(ClassifierMaker.robust, -(-num_images // BATCH), "parts", subset, budgets, BATCH)
    return made, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    inputs = trained()
    torch.set_num_threads(1)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    found: dict[int, list[Part]] = {}
    with session(None, 2, 0, 1):
        attack(inputs, 2, 2 * BATCH)  # processes start and import
        for _ in range(options.rounds):
            for num_workers, own in seconds.items():
                found[num_workers], taken = attack(inputs, num_workers, options.images)
                own.append(taken)
                print(f"{num_workers} worker{'s' * (num_workers > 1)}: {taken:.1f} s", flush=True)
    one, two = (statistics.median(own) for own in seconds.values())
    equal = all(
        torch.equal(tensor, load_file(other.tensors)[name])
        for part, other in zip(found[1], found[2], strict=True)
        for name, tensor in load_file(part.tensors).items()
    )
    print(f"{options.images} images: {one:.1f} s and {two:.1f} s, {one / two:.2f}x; same results: {equal}")


if __name__ == "__main__":
    main()
