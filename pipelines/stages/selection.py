"""The best model seen in training, by the Fréchet distance of its samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from atjem.checkpoint import weights_of
from atjem.fidelity import FeatureMoments
from atjem.models.attack_network import AttackNetwork
from atjem.models.precision import InPrecision, tf32_as_in
from atjem.models.registry import JointEnergyModel
from pipelines.context import StageContext
from pipelines.files import read_json, write_json
from pipelines.stages.reference import read_held_out
from pipelines.stages.sampler import FrechetCurve, Sampler, best_steps
from pipelines.stages.training_state import BEST_FILE, BEST_STATE_FILE


class BestModel:
    """Looks at the EMA model every `stage2.select_every` steps and keeps the best one's weights.

    Seeds and statistics are not those of the final figures: see `Sampler.indices`, and the test images.
    Part of every checkpoint, so that a resumed training chooses as an uninterrupted one.
    """

    def __init__(self, context: StageContext) -> None:
        self.context, self.stage = context, context.settings.stage2
        self.curve: FrechetCurve | None = None
        self.state: dict[
            str, Any
        ] = {}  # step, frechet_distance, sample_steps; looks since without a better one
        self.weights: dict[str, torch.Tensor] = {}

    def is_due(self, done: int) -> bool:
        return done % self.stage.select_every == 0 or done == self.stage.steps

    def look(self, done: int, model: JointEnergyModel, device: torch.device) -> float:
        """Measures the model after `done` steps. Every rank makes its part; all get the same distance."""
        reference = self.context.inputs["reference"]
        if self.curve is None:
            weights = self.context.settings.evaluate.inception_weights
            self.curve = FrechetCurve(reference, weights, read_held_out(reference))
        ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        precision = self.context.settings.evaluate.precision
        network = InPrecision(AttackNetwork(model).network, precision)
        with tf32_as_in(precision):
            distances = self.curve.measure(
                Sampler(self.context, network, device),
                self.stage.select_samples,
                rank=ranks[0],
                world_size=ranks[1],
                reduce=_sum_over_ranks,
                gather=_gather_over_ranks,
            )
        steps = best_steps(distances)
        if distances[steps] < self.state.get("frechet_distance", float("inf")):
            self.state = {"step": done, "frechet_distance": distances[steps], "sample_steps": steps}
            self.weights = weights_of(model)
            self.state["looks_since"] = 0
        else:
            self.state["looks_since"] += 1
        return distances[steps]

    @property
    def is_out_of_patience(self) -> bool:
        """After `stage2.patience` looks in a row without a better one."""
        patience = self.stage.patience
        return patience is not None and self.state.get("looks_since", 0) >= patience

    def snapshot(self) -> Callable[[Path], None]:
        """The best so far, as a function that writes it into a folder."""
        state, weights = self.state, self.weights

        def write(folder: Path) -> None:
            if state:
                save_file(weights, folder / BEST_FILE)
                write_json(folder / BEST_STATE_FILE, state)

        return write

    def restore(self, folder: Path) -> None:
        """What `snapshot` wrote there, which may be nothing."""
        self.state = read_json(folder / BEST_STATE_FILE) or {}
        self.weights = load_file(folder / BEST_FILE) if self.state else {}


def _gather_over_ranks(own: dict[int, float]) -> dict[int, float]:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    parts: list[dict[int, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return {steps: distance for part in parts for steps, distance in part.items()}


def _sum_over_ranks(moments: FeatureMoments) -> None:
    """A rank without a batch of its own adds zeros."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    shapes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, tuple(moments.total.shape))
    width = max(shape[0] for shape in shapes if shape)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    flat = torch.zeros(1 + width + width * width, dtype=torch.float64)
    if moments.count > 0:
        flat = torch.cat([moments.count.double().view(1), moments.total, moments.products.flatten()])
    flat = flat.to(device)
    dist.all_reduce(flat)
    flat = flat.cpu()
    moments.count, moments.total = flat[0], flat[1 : 1 + width]
    moments.products = flat[1 + width :].view(width, width)
