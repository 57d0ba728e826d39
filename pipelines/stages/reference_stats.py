"""What samples are compared with: features of the training images, and the extractor that makes them."""

import hashlib
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from atjem.adversarial import AdversarialTraining
from atjem.checkpoint import save_model
from atjem.checkpoint_files import SPEC_FILE, WEIGHTS_FILE
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
from atjem.models.registry import JointEnergyModel, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.scores import accuracy
from atjem.statistics_file import read_statistics, unusable_reference, write_statistics
from atjem.training_objective import Batch
from data.rng import stream_seed
from data.stream import Ahead, Order
from pipelines.context import StageContext
from pipelines.files import file_digest, write_json
from pipelines.stages.inputs import as_float, labelled_images, model_spec, pick_device, read_dataset
from pipelines.stages.parts import Made, Part, Parts
from pipelines.stages.reference import HELD_OUT_FILE, PROTOCOL_FILE, STATISTICS_FILE, write_kept
from pipelines.stages.tensors import read_tensors

MODEL_FILES = (SPEC_FILE, WEIGHTS_FILE)
_BATCH = 250
_PART_IMAGES = 20_000
_RANDOM_ARCH = "wrn-10-1"
_KEPT_IMAGES = 50_000  # training images whose features are kept, for metrics that look at each image


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: statistics of the training images or imported ones, of the test images; the extractor."""
    own = context.settings.evaluate.feature_extractor != "inception"
    parts, metrics = Parts(context, ReferenceMaker), {}
    if own:
        (made,) = parts.make(ReferenceMaker.classifier, 1, "extractors")
        metrics["extractor_accuracy"] = load_file(made.tensors)["accuracy"].item()
        for name in MODEL_FILES:
            shutil.copyfile(made.folder / name, context.folder / name)
    weights = _extractor(context, torch.device("cpu")).weights_sha256
    imported = context.settings.evaluate.reference_statistics
    if imported is None:
        statistics, source = _of_training_images(context, parts, weights)
    else:
        statistics, source = _imported(context, Path(imported))
    held_out = _statistics(_measured(context, parts, "test", weights))
    write_statistics(statistics, context.folder / STATISTICS_FILE)
    write_statistics(held_out, context.folder / HELD_OUT_FILE)
    size = read_dataset(context.inputs["data"]).image_size
    protocol: dict[str, Any] = {
        "extractor": CLASSIFIER if own else INCEPTION,
        "extractor.weights_sha256": weights,
        "extractor.resize": "none" if own else f"torch-fidelity's, {size} to 299 pixels",
        "extractor.training_steps": _extractor_steps(context) if own else 0,
        "extractor.precision": context.settings.evaluate.precision,
        **{f"reference.{name}": value for name, value in source.items()},
    }
    write_json(context.folder / PROTOCOL_FILE, protocol)
    metrics["train_test_frechet_distance"] = frechet_distance(statistics, held_out)
    return {"metrics": metrics, "protocols": dict.fromkeys(metrics, protocol)}


def _of_training_images(
    context: StageContext, parts: Parts, weights: str
) -> tuple[Statistics, dict[str, Any]]:
    dataset = read_dataset(context.inputs["data"])
    made = _measured(context, parts, "train", weights)
    features = Features.of(read_tensors((part.tensors for part in made), "pooled", "logits"))
    _, labels = labelled_images(context.inputs["data"], "train")
    chosen = _chosen(context, len(labels))
    write_kept(context.folder, features, labels[chosen])
    counted = {"num_images": len(labels), "features_num": int(chosen.sum())}
    kept = {**counted, "features_sha256": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()}
    return _statistics(made), {"source": "training images", "sha256": dataset.sha256, **kept}


def _chosen(context: StageContext, num: int) -> Tensor:
    """(num,) bool: a seeded choice of the images whose features are kept."""
    rng = np.random.Generator(
        np.random.Philox(key=[stream_seed(context.settings.data.seed, "reference/kept"), 0])
    )
    chosen = torch.zeros(num, dtype=torch.bool)
    chosen[torch.from_numpy(rng.permutation(num)[:_KEPT_IMAGES])] = True
    return chosen


def _imported(context: StageContext, path: Path) -> tuple[Statistics, dict[str, Any]]:
    """Raises ValueError for statistics that these features cannot be compared with."""
    if reason := unusable_reference(path, context.settings.evaluate.reference_implementation):
        raise ValueError(f"evaluate.reference_statistics: {path}: {reason}")
    return read_statistics(path)[0], {"source": "imported", "sha256": file_digest(path), "features_num": 0}


def _measured(context: StageContext, parts: Parts, split: str, weights: str) -> list[Part]:
    """weights: digest of the extractor's; parts that another extractor has seen are made again."""
    num = -(-read_dataset(context.inputs["data"]).counts[split] // _PART_IMAGES)
    kind = {"train": ReferenceMaker.train, "test": ReferenceMaker.test}[split]
    return parts.make(kind, num, f"parts of the {split} images", weights)


def _statistics(parts: Sequence[Part]) -> Statistics:
    """Sums in the parts' order, whoever made them."""
    moments = FeatureMoments()
    for part in parts:
        moments.merge(FeatureMoments.of(load_file(part.tensors)))
    return moments.statistics()


class ReferenceMaker:
    """The extractor and the images in one process (`pipelines.stages.parts.Maker`)."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.device = context, pick_device()

    @cached_property
    def extractor(self) -> Any:
        self.context.mirror.pull()  # a classifier may have been trained on another machine
        return _extractor(self.context, self.device)

    def classifier(self, part: Part) -> Made:
        """A classifier to take features from: its accuracy, beside the files of a model folder."""
        model, test_accuracy = _train_classifier(self.context, self.device)
        save_model(model, part.folder)
        stored = torch.tensor([test_accuracy], dtype=torch.float64)
        return {"accuracy": stored}, [part.folder / name for name in MODEL_FILES]

    def train(self, part: Part, weights: str) -> Made:
        """Moments of a part of the training images, and features of the chosen ones among them."""
        assert self.extractor.weights_sha256 == weights
        num = read_dataset(self.context.inputs["data"]).counts["train"]
        return self._features(part, "train", _chosen(self.context, num)), []

    def test(self, part: Part, weights: str) -> Made:
        """Moments of a part of the test images."""
        assert self.extractor.weights_sha256 == weights
        num = read_dataset(self.context.inputs["data"]).counts["test"]
        return self._features(part, "test", torch.zeros(num, dtype=torch.bool)), []

    def _features(self, part: Part, split: str, chosen: Tensor) -> dict[str, Tensor]:
        """Decodes ahead; sums on the device."""
        readers = self.context.settings.compute.cpus_per_worker
        images, _ = labelled_images(self.context.inputs["data"], split, readers)
        first = part.number * _PART_IMAGES
        last = min(first + _PART_IMAGES, len(images))
        moments, kept = FeatureMoments(), []
        batches = [range(start, min(start + _BATCH, last)) for start in range(first, last, _BATCH)]
        ahead = Ahead(lambda number: images.get(batches[number]), len(batches))
        for number, places in enumerate(batches):
            features = extract(self.extractor, [ahead(number)])
            moments.add(features.pooled.to(self.device))
            mask = chosen[places.start : places.stop]
            kept.append(Features(features.pooled[mask], features.logits[mask]))
            self.context.report.progress(places.stop, len(images), f"{split} images")
        return moments.tensors() | Features.cat(kept).tensors()


def _extractor(context: StageContext, device: torch.device) -> Any:
    """Inception, or the classifier that the stage has trained, whose files lie among its parts."""
    if context.settings.evaluate.feature_extractor == "inception":
        return make_extractor(INCEPTION, context.settings.evaluate.inception_weights, device)
    return make_extractor(CLASSIFIER, str(context.checkpoints / ReferenceMaker.classifier.__name__), device)


def _extractor_steps(context: StageContext) -> int:
    evaluate = context.settings.evaluate
    return evaluate.extractor_steps if evaluate.feature_extractor == "classifier" else 0


def _train_classifier(context: StageContext, device: torch.device) -> tuple[JointEnergyModel, float]:
    """The recipe's own architecture, trained plainly: it is also the twin that attacks must break.

    Random features are those of a small network that is not trained. Returns its accuracy on test images too.
    """
    settings = context.settings
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
    test_images, test_labels = labelled_images(context.inputs["data"], "test")
    starts = range(0, len(test_images), _BATCH)
    batches = (test_images.get(range(start, min(start + _BATCH, len(test_images)))) for start in starts)
    with torch.no_grad():
        logits = torch.cat([trained(as_float(batch, device)).cpu() for batch in batches])
    return trained, accuracy(logits, test_labels).item()
