"""What samples are compared with: features of the training images, and the extractor that makes them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atjem.adversarial import AdversarialTraining
from atjem.checkpoint import save_model
from atjem.ema import Ema
from atjem.fidelity import (
    CLASSIFIER,
    INCEPTION,
    FeatureMoments,
    Features,
    Statistics,
    extract,
    frechet_distance,
    make_extractor,
)
from atjem.learner import Learner
from atjem.models.registry import build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.scores import accuracy
from atjem.statistics_file import read_statistics, unusable_reference, write_statistics
from atjem.training_objective import Batch
from data.images import Images
from data.rng import stream_seed
from data.stream import Order
from pipelines.context import StageContext
from pipelines.files import file_digest, write_json
from pipelines.stages.inputs import as_float, labelled_images, model_spec, pick_device, read_dataset
from pipelines.stages.reference import HELD_OUT_FILE, PROTOCOL_FILE, STATISTICS_FILE, write_kept

_BATCH = 250
_RANDOM_ARCH = "wrn-10-1"
_KEPT_IMAGES = 50_000  # training images whose features are kept, for metrics that look at each image


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: statistics of the training images or imported ones, of the test images; the extractor."""
    own = context.settings.evaluate.feature_extractor != "inception"
    metrics = _train_extractor(context) if own else {}
    weights = str(context.folder) if own else context.settings.evaluate.inception_weights
    extractor = make_extractor(CLASSIFIER if own else INCEPTION, weights, pick_device())
    imported = context.settings.evaluate.reference_statistics
    if imported is None:
        statistics, source = _of_training_images(context, extractor)
    else:
        statistics, source = _imported(context, Path(imported))
    held_out, _ = _measure(context, extractor, "test", num_kept=0)
    write_statistics(statistics, context.folder / STATISTICS_FILE)
    write_statistics(held_out, context.folder / HELD_OUT_FILE)
    size = read_dataset(context.inputs["data"]).image_size
    protocol: dict[str, Any] = {
        "extractor": CLASSIFIER if own else INCEPTION,
        "extractor.weights_sha256": extractor.weights_sha256,
        "extractor.resize": "none" if own else f"torch-fidelity's, {size} to 299 pixels",
        "extractor.training_steps": _extractor_steps(context) if own else 0,
        **{f"reference.{name}": value for name, value in source.items()},
    }
    write_json(context.folder / PROTOCOL_FILE, protocol)
    metrics["train_test_frechet_distance"] = frechet_distance(statistics, held_out)
    return {"metrics": metrics, "protocols": dict.fromkeys(metrics, protocol)}


def _of_training_images(context: StageContext, extractor: nn.Module) -> tuple[Statistics, dict[str, Any]]:
    dataset = read_dataset(context.inputs["data"])
    statistics, (features, labels, chosen) = _measure(context, extractor, "train", num_kept=_KEPT_IMAGES)
    write_kept(context.folder, features, labels)
    counted = {"num_images": dataset.counts["train"], "features_num": len(labels)}
    kept = {**counted, "features_sha256": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()}
    return statistics, {"source": "training images", "sha256": dataset.sha256, **kept}


def _imported(context: StageContext, path: Path) -> tuple[Statistics, dict[str, Any]]:
    """Raises ValueError for statistics that these features cannot be compared with."""
    if reason := unusable_reference(path, context.settings.evaluate.reference_implementation):
        raise ValueError(f"evaluate.reference_statistics: {path}: {reason}")
    return read_statistics(path)[0], {"source": "imported", "sha256": file_digest(path), "features_num": 0}


def _measure(
    context: StageContext, extractor: nn.Module, split: str, *, num_kept: int
) -> tuple[Statistics, tuple[Features, Tensor, Tensor]]:
    """Statistics of a split's images; features and labels of a seeded choice of them, and which these are."""
    images, labels = labelled_images(context.inputs["data"], split)
    rng = np.random.Generator(
        np.random.Philox(key=[stream_seed(context.settings.data.seed, "reference/kept"), 0])
    )
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[torch.from_numpy(rng.permutation(len(images))[:num_kept])] = True
    moments, kept, done = FeatureMoments(), [], 0
    for batch in uint8_batches(images):
        features, mask = extract(extractor, [batch]), chosen[done : done + len(batch)]
        moments.add(features.pooled)
        kept.append(Features(features.pooled[mask], features.logits[mask]))
        done += len(batch)
        context.report.progress(done, len(images), f"{split} images")
    return moments.statistics(), (Features.cat(kept), labels[chosen], chosen)


def uint8_batches(images: Images) -> Iterator[Tensor]:
    """(B, C, H, W) uint8 batches of a whole collection, in its order."""
    for start in range(0, len(images), _BATCH):
        yield images.get(range(start, min(start + _BATCH, len(images))))


def _extractor_steps(context: StageContext) -> int:
    evaluate = context.settings.evaluate
    return evaluate.extractor_steps if evaluate.feature_extractor == "classifier" else 0


def _train_extractor(context: StageContext) -> dict[str, float]:
    """The recipe's own architecture, trained plainly: it is also the twin that attacks must break.

    Random features are those of a small network that is not trained.
    """
    settings, device = context.settings, pick_device()
    steps = _extractor_steps(context)
    arch = settings.model.arch if settings.evaluate.feature_extractor == "classifier" else _RANDOM_ARCH
    torch.manual_seed(stream_seed(settings.data.seed, "extractor/weights"))
    spec = model_spec(context.inputs["data"], arch, settings.model.normalization)
    model = build_model(spec).to(device)
    images, labels = labelled_images(context.inputs["data"], "train")
    batch_size = min(64, len(images))
    order = Order(len(images), batch_size, stream_seed(settings.data.seed, "extractor/order"))
    optimizer = make_optimizer(
        model.parameters(), name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, betas=(0.9, 0.999)
    )
    schedule = make_schedule(optimizer, schedule="cosine", warmup_steps=0, total_steps=steps)
    learner = Learner(model, AdversarialTraining(None), optimizer, schedule, Ema(model, 0.999))
    for step in range(steps):
        indices = order.batch(step)
        learner.step(Batch(as_float(images.get(indices), device), labels[indices].to(device)))
        context.report.progress(step + 1, steps, "steps")
    trained = learner.ema.module.eval()
    save_model(trained, context.folder)
    test_images, test_labels = labelled_images(context.inputs["data"], "test")
    with torch.no_grad():
        logits = torch.cat([trained(as_float(batch, device)).cpu() for batch in uint8_batches(test_images)])
    return {"extractor_accuracy": accuracy(logits, test_labels).item()}
