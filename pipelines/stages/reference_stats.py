"""What samples are compared with: features of the training images, and the extractor that makes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from atjem.adversarial import AdversarialTraining
from atjem.checkpoint import save_model
from atjem.checkpoint_files import WEIGHTS_FILE
from atjem.ema import Ema
from atjem.fidelity import (
    CLASSIFIER,
    INCEPTION,
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
from atjem.training_objective import Batch
from data.images import Images
from data.rng import stream_seed
from data.stream import Order
from pipelines.context import StageContext
from pipelines.files import file_digest
from pipelines.stages.inputs import as_float, labelled_images, model_spec, pick_device

REFERENCE_FILE = "reference.safetensors"
EXTRACTOR_FILE = "extractor.json"
_BATCH = 250
_RANDOM_ARCH = "wrn-10-1"


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: features of the train split, statistics of the test split, and an extractor of our own."""
    own = context.settings.evaluate.feature_extractor != "inception"
    metrics = _train_extractor(context) if own else {}
    weights = str(context.folder) if own else context.settings.evaluate.inception_weights
    extractor = make_extractor(CLASSIFIER if own else INCEPTION, weights, pick_device())
    features = {}
    for split in ("train", "test"):
        images, _ = labelled_images(context.inputs["data"], split)
        features[split] = extract(extractor, uint8_batches(images))
    train, test = features["train"], features["test"]
    held_out = {name: torch.from_numpy(value) for name, value in vars(Statistics.of(test)).items()}
    tensors = {"pooled": train.pooled, "logits": train.logits, **held_out}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, context.folder / REFERENCE_FILE
    )
    description: dict[str, Any] = {
        "extractor": CLASSIFIER if own else INCEPTION,
        "weights_sha256": _weights_digest(own, context),
    }
    if own:
        description["training_steps"] = _extractor_steps(context)
    (context.folder / EXTRACTOR_FILE).write_text(json.dumps(description, indent=1) + "\n")
    distance = frechet_distance(Statistics.of(train), Statistics.of(test))
    return {"metrics": {**metrics, "train_test_frechet_distance": distance}, "protocol": description}


def read_reference(folder: Path) -> Features:
    """The training images' features."""
    stored = load_file(folder / REFERENCE_FILE)
    return Features(stored["pooled"], stored["logits"])


def read_held_out(folder: Path) -> Statistics:
    """Statistics of the test images: for choices that the final figures are not to profit from."""
    stored = load_file(folder / REFERENCE_FILE)
    return Statistics(stored["mu"].numpy(), stored["sigma"].numpy())


def open_extractor(folder: Path, inception_weights: str | None) -> Any:
    """The extractor that made a reference, on the device at hand."""
    name = json.loads((folder / EXTRACTOR_FILE).read_text())["extractor"]
    weights = str(folder) if name == CLASSIFIER else inception_weights
    return make_extractor(name, weights, pick_device())


def uint8_batches(images: Images) -> Iterator[Tensor]:
    """(B, C, H, W) uint8 batches of a whole collection, in its order."""
    for start in range(0, len(images), _BATCH):
        yield images.get(range(start, min(start + _BATCH, len(images))))


def _weights_digest(own: bool, context: StageContext) -> str:
    if own:
        return file_digest(context.folder / WEIGHTS_FILE)
    path = context.settings.evaluate.inception_weights
    return file_digest(Path(path)) if path else "torch-fidelity's own download"


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
    torch.manual_seed(stream_seed(settings.seed, "extractor/weights"))
    spec = model_spec(context.inputs["data"], arch, settings.model.normalization)
    model = build_model(spec).to(device)
    images, labels = labelled_images(context.inputs["data"], "train")
    batch_size = min(64, len(images))
    order = Order(len(images), batch_size, stream_seed(settings.seed, "extractor/order"))
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
