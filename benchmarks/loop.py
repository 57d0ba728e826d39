"""What the training loop adds to the bare steps: logging, agreement, checkpoints, messages to Ray.

    python benchmarks/loop.py [WORKDIR]     digits, stage 2, 200 steps, 3 rounds: about 2 minutes

The loop of `pipelines.stages.training` runs in this process, with a real Ray actor to report to, and the time
inside `Learner.step` and inside the batches is taken out of its wall time; the rest is the loop's own. The
digits' steps are short (about 0.1 s), so for larger networks the share is smaller.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.train
import ray.train.torch
import torch

from atjem.learner import Learner
from pipelines.compute.channel import MailReporter, open_mailbox
from pipelines.compute.cluster import session
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import StageContext, select
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage2, training_loop

ROOT = Path(__file__).resolve().parents[1]
STEPS, ROUNDS = 200, 3


def main() -> None:
    workdir = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    data, start = inputs(workdir)
    spent: dict[str, float] = defaultdict(float)
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    ray.train.get_context = lambda: alone
    ray.train.torch.get_device = lambda: torch.device("cpu")
    Learner.step = timed(Learner.step, spent, "steps")  # type: ignore[method-assign]
    batches = train_stage2._batches
    train_stage2._batches = lambda *given: timed(batches(*given), spent, "batches")
    training_loop._make_learner = timed(training_loop._make_learner, spent, "set-up")
    print(f"{'':8}{'steps':>10}{'batches':>10}{'loop':>10}{'share of steps':>16}")
    with session(None, 2, 0, 1):
        for number in range(ROUNDS):
            spent.clear()
            report = MailReporter(open_mailbox(), "train_stage2")
            with tempfile.TemporaryDirectory() as folder:
                context = make_context(Path(folder), data, start, report)
                started = time.perf_counter()
                train_stage2.worker({"context": context, "accumulate": 1})
                rest = time.perf_counter() - started - sum(spent.values())
            share = rest / spent["steps"]
            seconds = f"{spent['steps']:>9.2f}s{spent['batches']:>9.2f}s{rest:>9.2f}s"
            print(f"round {number + 1}{seconds}{share:>15.1%}")


def inputs(workdir: Path) -> tuple[Path, Path]:
    """A short stage 1 and its data, by the pipeline itself."""
    command = [sys.executable, str(ROOT / "pipelines" / "run.py"), "--pipeline", "digits"]
    command += ["--until", "train_stage1"]
    sets = ["--set", "stage1.steps=20", "--workdir", str(workdir), "--json"]
    done = subprocess.run([*command, *sets], check=True, capture_output=True, text=True, cwd=ROOT)
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    artifacts = {stage["name"]: Path(stage["artifact"]) for stage in stages if stage["artifact"]}
    return artifacts["preprocess"], artifacts["train_stage1"]


def make_context(folder: Path, data: Path, start: Path, report: MailReporter) -> StageContext:
    sets = (f"stage2.steps={STEPS}", f"stage2.checkpoint_every={STEPS // 2}")
    settings = load_recipe("digits", sets)[0].settings
    node = build_graph(settings)["train_stage2"]
    roles = {"data": data, "start": start}
    own = select(settings, node.reads)
    return StageContext(
        own, roles, folder / "artifact", folder / "checkpoints", report, {}, run_workers, spread
    )


def timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
