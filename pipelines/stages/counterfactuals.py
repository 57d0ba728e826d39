"""Counterfactuals of test images: do they reach another class, how far do they move, do they look like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atjem.counterfactuals import counterfactual
from atjem.fidelity import Features, class_frechet_distance, extract
from atjem.sampling import quantize
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import (
    as_float,
    batch_size,
    labelled_images,
    load_network,
    pick_device,
    read_dataset,
)
from pipelines.stages.parts import Made, Part, Parts
from pipelines.stages.pictures import draw_frames
from pipelines.stages.reference import open_extractor, read_kept, read_protocol
from pipelines.stages.tensors import read_tensors

PANEL_FILE = "figures/counterfactuals.png"
_FACTORS = (0.5, 1.0, 2.0)  # of eps
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_BATCH, _SHOWN = 64, 8
_IN_CLASS = 30  # images that change to each class, at least, where there are enough
_FEWEST = 10  # of a class, for its Fréchet distance


@dataclass(frozen=True)
class Chosen:
    """Test images, and the class that each is to become."""

    indices: Indices
    targets: Indices


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: figures in its manifest, and a panel of originals, counterfactuals and differences."""
    settings = context.settings.evaluate.counterfactual
    chosen = _choose(context, len(read_dataset(context.inputs["data"]).classes))
    by_eps = _change(context, chosen, batch_size(context, _BATCH))
    figures = {
        eps: _figures(context, changed, torch.from_numpy(chosen.targets)) for eps, changed in by_eps.items()
    }
    metrics = {f"counterfactual_{name}": value for name, value in figures[settings.eps].items()}
    absent = {}
    if "counterfactual_frechet_distance" not in metrics:
        absent["counterfactual_frechet_distance"] = _why_no_distance(context)
    _draw(context, chosen, [changed["pixels"] for changed in by_eps.values()])
    points = [
        {"step": round(1000 * eps), **{f"counterfactual_{name}_by_eps": v for name, v in own.items()}}
        for eps, own in figures.items()
    ]
    protocol = _protocol(context, chosen)
    distance = {"counterfactual_frechet_distance": protocol | read_protocol(context.inputs["reference"])}
    return {
        "metrics": metrics,
        "absent": absent,
        "points": points,
        "counterfactuals": [{"eps": eps, **own} for eps, own in figures.items()],
        "protocols": dict.fromkeys(metrics, protocol) | distance,
    }


def _budgets(eps: float) -> list[float]:
    return [factor * eps for factor in _FACTORS]


def _choose(context: StageContext, num_classes: int) -> Chosen:
    """A seeded choice of test images; targets take turns, as many classes as get enough images each."""
    settings = context.settings.evaluate.counterfactual
    _, labels = labelled_images(context.inputs["data"], "test")
    rng = np.random.Generator(
        np.random.Philox(key=[stream_seed(context.settings.data.seed, "evaluate/counterfactual"), 0])
    )
    indices = np.sort(rng.permutation(len(labels))[: settings.num_images])
    classes = rng.permutation(num_classes)[: max(2, len(indices) // _IN_CLASS)]
    turns = np.arange(len(indices)) % len(classes)
    own = classes[turns] == labels[indices].numpy()
    targets = classes[np.where(own, (turns + 1) % len(classes), turns)]
    return Chosen(indices, targets)


def _change(context: StageContext, chosen: Chosen, batch: int) -> dict[float, dict[str, Tensor]]:
    """What becomes of the images within each budget."""
    budgets = _budgets(context.settings.evaluate.counterfactual.eps)
    num_batches = -(-len(chosen.indices) // batch)
    num, unit = len(budgets) * num_batches, "parts of the counterfactuals"
    parts = Parts(context, Changer).make(Changer.changed, num, unit, chosen, budgets, batch)
    names = ("pixels", "confidence", "flipped", "l2", "pooled", "logits")
    return {
        eps: read_tensors((parts[place * num_batches + n].tensors for n in range(num_batches)), *names)
        for place, eps in enumerate(budgets)
    }


class Changer:
    """A model, the extractor and the test images in one process (`pipelines.stages.parts.Maker`)."""

    def __init__(self, context: StageContext) -> None:
        settings, self.device = context.settings.evaluate, pick_device()
        self.steps = settings.counterfactual.steps
        self.network = load_network(context.inputs["model"], self.device, settings.precision)
        self.extractor = open_extractor(context.inputs["reference"], settings.inception_weights, self.device)
        self.images, _ = labelled_images(context.inputs["data"], "test")

    def changed(self, part: Part, chosen: Chosen, budgets: Sequence[float], batch: int) -> Made:
        """One batch within one budget, with the features of what it became."""
        place, number = divmod(part.number, -(-len(chosen.indices) // batch))
        own = slice(number * batch, (number + 1) * batch)
        x = as_float(self.images.get(chosen.indices[own]), self.device)
        targets = torch.from_numpy(chosen.targets[own]).to(self.device)
        changed = _changed(self.network, x, targets, budgets[place], self.steps)
        return changed | extract(self.extractor, [changed["pixels"]]).tensors(), []


@torch.no_grad()
def _changed(network: nn.Module, x: Tensor, targets: Tensor, eps: float, steps: int) -> dict[str, Tensor]:
    """Counterfactuals as the 8-bit images that people see, and what the model makes of these."""
    pixels = quantize(counterfactual(network, x, targets, eps=eps, num_steps=steps))
    seen = as_float(pixels, x.device)
    logits = network(seen)
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: it has diverged, and has no counterfactuals")
    return {
        "pixels": pixels.cpu(),
        "confidence": logits.softmax(dim=1).gather(1, targets[:, None])[:, 0].cpu(),
        "flipped": (logits.argmax(dim=1) == targets).cpu(),
        "l2": (seen - x).flatten(1).norm(dim=1).cpu(),
    }


def _figures(context: StageContext, changed: Mapping[str, Tensor], targets: Tensor) -> dict[str, float]:
    figures = {
        "confidence": changed["confidence"].double().mean().item(),
        "flip_rate": changed["flipped"].double().mean().item(),
        "l2": changed["l2"].double().mean().item(),
    }
    kept = read_kept(context.inputs["reference"])
    distance = kept and class_frechet_distance(Features.of(changed), targets, *kept, fewest=_FEWEST)
    return figures | ({} if distance is None else {"frechet_distance": distance})


def _why_no_distance(context: StageContext) -> str:
    if read_kept(context.inputs["reference"]) is None:
        return "the reference is imported mu and sigma of all classes together"
    return f"no class has {_FEWEST} counterfactuals and {_FEWEST} training images"


def _draw(context: StageContext, chosen: Chosen, changed: list[Tensor]) -> None:
    """A row an image: as it was, within each budget, and what the middle one changed, grey where nothing."""
    shown = np.unique(np.linspace(0, len(chosen.indices) - 1, _SHOWN, dtype=np.int64))
    images, _ = labelled_images(context.inputs["data"], "test")
    originals, changed = images.get(chosen.indices[shown]), [pixels[shown] for pixels in changed]
    delta = changed[1].float() - originals.float()
    largest = delta.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    difference = (127.5 + 127.5 * delta / largest).round().to(torch.uint8)
    draw_frames([originals, *changed, difference], context.folder / PANEL_FILE)


def _protocol(context: StageContext, chosen: Chosen) -> dict[str, Any]:
    settings = context.settings.evaluate.counterfactual
    return {
        "images.sha256": read_dataset(context.inputs["data"]).sha256,
        "num_images": len(chosen.indices),
        "attack": f"ascent of f(x)[target] within L2 {settings.eps:g}, {settings.steps} steps of eps / 25",
        "quantisation": "rounded to 8 bits",
        "precision": context.settings.evaluate.precision,
        "data.seed": context.settings.data.seed,
    }
