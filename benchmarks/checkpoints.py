"""What checkpoints cost: how long training waits for one, their share of a recipe, the time to resume.

`python benchmarks/checkpoints.py` (three minutes). Figures are medians. The share is the time that training
waits in one run: on a shared machine, runs with and without checkpoints differ by more than that.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from loop import timed

from atjem.adversarial import AdversarialTraining
from atjem.ema import Ema
from atjem.health import Watchdog
from atjem.learner import Learner
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch
from data.build import build
from data.part import Job
from data.sources.named import open_source
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext, select
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage1
from pipelines.stages.training_state import Saver, TrainingState
from pipelines.workdir.checkpoints import checkpoint_steps, sound_checkpoint

ROUNDS, SAVES = 3, 5
STEPS = 400


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        one_checkpoint(Path(folder))
        share_of_training(Path(folder))


def one_checkpoint(folder: Path) -> None:
    """A network of 9 million parameters after one step: weights, average and momentum."""
    state, waited, written, restored = make_state(), [], [], []
    saver = Saver(folder / "large", print, lambda path: None)
    for step in range(1, SAVES + 1):
        started = time.perf_counter()
        saver.save(step, state)
        waited.append(time.perf_counter() - started)
        saver.wait()
        written.append(time.perf_counter() - started)
        started = time.perf_counter()
        found = sound_checkpoint(folder / "large")
        assert found is not None
        state.restore(found[1], torch.device("cpu"))
        restored.append(time.perf_counter() - started)
    saver.close()
    (_, path) = checkpoint_steps(folder / "large")[-1]
    size = sum(file.stat().st_size for file in path.iterdir())
    print(f"a checkpoint of {size / 1e6:.0f} MB: training waits {statistics.median(waited):.2f} s, ", end="")
    print(f"it is on disk after {statistics.median(written):.2f} s, ", end="")
    print(f"checked and restored in {statistics.median(restored):.2f} s")


def make_state() -> TrainingState:
    model = build_model(ModelSpec("wrn-28-5", 10, 3, 32, (0.5,) * 3, (0.25,) * 3))
    betas = (0.9, 0.95)
    rule = make_optimizer(model.parameters(), name="sgd", lr=0.1, momentum=0.9, weight_decay=0, betas=betas)
    schedule = make_schedule(rule, schedule="constant", warmup_steps=0, total_steps=10)
    learner = Learner(model, AdversarialTraining(None), rule, schedule, Ema(model, 0.999))
    learner.step(Batch(torch.rand(2, 3, 32, 32), torch.tensor([0, 1])))
    return TrainingState(learner, Watchdog())


def share_of_training(folder: Path) -> None:
    """Stage 1 of `digits`: what of its wall time passes in `Saver.save` and in waiting for the last write."""
    data = folder / "data"
    job = Job(1, 8, seed=0, test_fraction=0.2, max_bad_fraction=0)
    build(open_source("digits", "."), data / "images", job)
    spent: dict[str, float] = {}
    for name in ("save", "close"):
        setattr(Saver, name, timed(getattr(Saver, name), spent, name))
    shares = []
    for number in range(ROUNDS):
        spent |= {"save": 0, "close": 0}
        context = make_context(folder / str(number), data)
        started = time.perf_counter()
        train_stage1.run(context)
        seconds = time.perf_counter() - started
        waited = sum(spent.values())
        shares.append(waited / seconds)
    every = context.settings.stage1.checkpoint_every
    print(f"digits, {STEPS} steps of stage 1 in {seconds:.1f} s, a checkpoint every {every}: ", end="")
    print(f"training waits {waited:.3f} s for them; {statistics.median(shares):.2%} in {ROUNDS} runs")


def make_context(folder: Path, data: Path) -> StageContext:
    settings = load_recipe("digits", (f"stage1.steps={STEPS}",))[0].settings
    (folder / "artifact").mkdir(parents=True)
    own = select(settings, build_graph(settings)["train_stage1"].reads)
    roles = {"data": data}
    return StageContext(
        own, roles, folder / "artifact", folder / "checkpoints", Silent(), {}, run_workers, spread
    )


if __name__ == "__main__":
    main()
