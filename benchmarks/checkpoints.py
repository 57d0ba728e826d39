"""What checkpoints cost: how long training waits for one, their share of a recipe, the time to resume.

`python benchmarks/checkpoints.py` (five minutes). Sides take turns; figures are medians. The share is told in
processor time too, the thread that writes included: what else a shared machine does is not in it.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

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
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext, select
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage1
from pipelines.stages.training_state import Saver, TrainingState
from pipelines.workdir.checkpoints import checkpoint_steps, sound_checkpoint

ROUNDS, SAVES = 5, 5
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
    """Stage 1 of `digits` with checkpoints at the recipe's interval, and with the last one alone."""
    data = folder / "data"
    job = Job(1, 8, seed=0, test_fraction=0.2, max_bad_fraction=0)
    build(open_source("digits", "."), data / "images", job)
    interval = load_recipe("digits")[0].settings.stage1.checkpoint_every
    seconds: dict[int, list[tuple[float, float]]] = {interval: [], STEPS: []}
    for number in range(ROUNDS):
        for every in (interval, STEPS):
            context = make_context(folder / f"{number}-{every}", data, every)
            started, worked = time.perf_counter(), time.process_time()
            train_stage1.run(context)
            seconds[every].append((time.perf_counter() - started, time.process_time() - worked))
    print(f"digits, {STEPS} steps of stage 1, a checkpoint every {interval} steps against one at the end:")
    for kind, often, once in zip(
        ("wall", "processor"),
        zip(*seconds[interval], strict=True),
        zip(*seconds[STEPS], strict=True),
        strict=True,
    ):
        more = statistics.median(a / b - 1 for a, b in zip(often, once, strict=True))
        print(f"{kind} time {statistics.median(often):.2f} s, {statistics.median(once):.2f} s: {more:+.1%}")


def make_context(folder: Path, data: Path, every: int) -> StageContext:
    settings = load_recipe("digits", (f"stage1.steps={STEPS}", f"stage1.checkpoint_every={every}"))[
        0
    ].settings
    (folder / "artifact").mkdir(parents=True)
    own = select(settings, build_graph(settings)["train_stage1"].reads)
    roles = {"data": data}
    return StageContext(own, roles, folder / "artifact", folder / "checkpoints", Silent(), {}, run_workers)


if __name__ == "__main__":
    main()
