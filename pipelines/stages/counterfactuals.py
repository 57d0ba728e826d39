"""Counterfactuals of test images: do they reach another class, how far do they move, do they look like it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atjem.counterfactuals import counterfactual
from atjem.fidelity import Features, class_frechet_distance, extract
from atjem.models.registry import JointEnergyModel
from atjem.sampling import quantize
from data.images import Images
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, load_network, pick_device, read_dataset
from pipelines.stages.pictures import draw_frames
from pipelines.stages.reference import open_extractor, read_kept, read_protocol
from pipelines.stages.tensors import is_readable, read_tensors, save_tensors

PANEL_FILE = "figures/counterfactuals.png"
_FACTORS = (0.5, 1.0, 2.0)  # of eps
_BATCH, _SHOWN = 64, 8
_IN_CLASS = 30  # images that change to each class, at least, where there are enough
_FEWEST = 10  # of a class, for its Fréchet distance
_KEPT = "counterfactuals"  # among the checkpoints, until the artifact is there


@dataclass(frozen=True)
class Chosen:
    """Test images, and the class that each is to become."""

    images: Images
    indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    targets: Tensor

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        places = slice(number * _BATCH, (number + 1) * _BATCH)
        return self.images.get(self.indices[places]), self.targets[places]

    @property
    def num_batches(self) -> int:
        return -(-len(self.indices) // _BATCH)


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: figures in its manifest, and a panel of originals, counterfactuals and differences."""
    settings, device = context.settings.evaluate.counterfactual, pick_device()
    network = load_network(context.inputs["model"], device)
    chosen = _choose(context, network.spec.num_classes)
    extractor = open_extractor(
        context.inputs["reference"], context.settings.evaluate.inception_weights, device
    )
    by_eps = {eps: _change(context, network, extractor, chosen, eps) for eps in _budgets(settings.eps)}
    figures = {eps: _figures(context, changed, chosen.targets) for eps, changed in by_eps.items()}
    metrics = {f"counterfactual_{name}": value for name, value in figures[settings.eps].items()}
    absent = {}
    if "counterfactual_frechet_distance" not in metrics:
        absent["counterfactual_frechet_distance"] = _why_no_distance(context)
    _draw(chosen, [changed["pixels"] for changed in by_eps.values()], context.folder / PANEL_FILE)
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
    images, labels = labelled_images(context.inputs["data"], "test")
    rng = np.random.Generator(
        np.random.Philox(key=[stream_seed(context.settings.data.seed, "evaluate/counterfactual"), 0])
    )
    indices = rng.permutation(len(images))[: settings.num_images]
    classes = rng.permutation(num_classes)[: max(2, len(indices) // _IN_CLASS)]
    turns = np.arange(len(indices)) % len(classes)
    own = classes[turns] == labels[indices].numpy()
    targets = classes[np.where(own, (turns + 1) % len(classes), turns)]
    return Chosen(images, indices, torch.from_numpy(targets))


def _change(
    context: StageContext, network: JointEnergyModel, extractor: nn.Module, chosen: Chosen, eps: float
) -> dict[str, Tensor]:
    """What becomes of the images within one budget. Batches that are finished already are read."""
    device = next(network.parameters()).device
    files = [context.checkpoints / _KEPT / f"{eps:g}-{n:05d}.safetensors" for n in range(chosen.num_batches)]
    for number, file in enumerate(files):
        if not is_readable(file):
            pixels, targets = chosen.batch(number)
            steps = context.settings.evaluate.counterfactual.steps
            changed = _changed(network, as_float(pixels, device), targets.to(device), eps, steps)
            features = extract(extractor, [changed["pixels"]])
            save_tensors(changed | features.tensors(), file)
            context.mirror.push(file)
        done = (_budgets(context.settings.evaluate.counterfactual.eps).index(eps)) * len(files) + number + 1
        context.report.progress(done, len(_FACTORS) * len(files), "batches of counterfactuals")
    names = ("pixels", "confidence", "flipped", "l2", "pooled", "logits")
    return read_tensors(files, *names)


@torch.no_grad()
def _changed(
    network: JointEnergyModel, x: Tensor, targets: Tensor, eps: float, steps: int
) -> dict[str, Tensor]:
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


def _draw(chosen: Chosen, changed: list[Tensor], path: Path) -> None:
    """A row an image: as it was, within each budget, and what the middle one changed, grey where nothing."""
    originals, _ = chosen.batch(0)
    originals = originals[:_SHOWN]
    delta = changed[1][: len(originals)].float() - originals.float()
    largest = delta.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    difference = (127.5 + 127.5 * delta / largest).round().to(torch.uint8)
    draw_frames([originals, *(pixels[: len(originals)] for pixels in changed), difference], path)


def _protocol(context: StageContext, chosen: Chosen) -> dict[str, Any]:
    settings = context.settings.evaluate.counterfactual
    return {
        "images.sha256": read_dataset(context.inputs["data"]).sha256,
        "num_images": len(chosen.indices),
        "attack": f"ascent of f(x)[target] within L2 {settings.eps:g}, {settings.steps} steps of eps / 25",
        "quantisation": "rounded to 8 bits",
        "data.seed": context.settings.data.seed,
    }
