"""Stages run in the test's own process, on digits: no Ray, no MLflow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atjem.checkpoint import load, save_model
from atjem.models.registry import build_model
from data.build import build
from data.part import Job
from data.sources.named import open_source
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext, select
from pipelines.graph import build_graph
from pipelines.stages import reference_stats
from pipelines.stages.inputs import model_spec
from tests.support.recipes import settings_of

SMALL = (
    "evaluate.extractor_steps=5",
    "sample.num_samples=50",
    "sample.num_selection=30",
    "sample.step_candidates=[2,4]",
    "sample.steps=3",
    "sample.batch_size=20",
    "evaluate.counterfactual.num_images=70",
    "evaluate.counterfactual.steps=4",
)


def make_context(
    folder: Path, inputs: Mapping[str, Path], *changes: str, node: str = "sample"
) -> StageContext:
    """What a node would be given. `folder` gets an artifact in the making and checkpoints."""
    whole = settings_of("digits", *SMALL, *changes)
    (folder / "artifact").mkdir(parents=True)
    settings = select(whole, build_graph(whole)[node].reads)
    return StageContext(
        settings, inputs, folder / "artifact", folder / "checkpoints", Silent(), {}, run_workers, spread
    )


def make_inputs(folder: Path) -> dict[str, Path]:
    """Prepared digits, a network that is not trained, and a reference: as three stages would make them."""
    job = Job(1, 8, seed=0, test_fraction=0.2, max_bad_fraction=0)
    build(open_source("digits", "."), folder / "data" / "images", job)
    (folder / "model").mkdir()
    torch.manual_seed(0)
    save_model(build_model(model_spec(folder / "data", "wrn-10-1", "data")), folder / "model")
    context = make_context(folder / "reference", {"data": folder / "data"}, node="reference_stats")
    reference_stats.run(context)
    return {"data": folder / "data", "model": folder / "model", "reference": context.folder}


def diverged_model(inputs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The same inputs with a model whose weights are finite and whose logits are not."""
    model = load(inputs["model"])
    with torch.no_grad():
        model.backbone.fc.weight.sign_().mul_(3e38)
    folder.mkdir()
    save_model(model, folder)
    return {**inputs, "model": folder}


@contextmanager
def one_thread() -> Iterator[None]:
    """As a Ray worker with one CPU computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensors_equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Told(Silent):
    """Remembers what the user would read; asks for an end in the step after `stop_after`."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.lines: list[str] = []
        self.done, self.stop_after = 0, stop_after

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        self.done = done

    def stopping(self, *, ask: bool = False) -> bool:
        return self.done >= self.stop_after
