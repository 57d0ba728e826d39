"""Stage 1: adversarial training with batch statistics, from fresh or imported weights."""

from pathlib import Path
from typing import Any

import torch

from atjem.adversarial import AdversarialTraining
from atjem.health import Watchdog
from atjem.models.registry import JointEnergyModel, build_model
from atjem.published import load_start
from atjem.training_objective import Batch
from data.batches import Stream
from data.devices import to_device
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, model_spec
from pipelines.stages.training import fit, make_attack, share
from pipelines.stages.training_loop import Batches, train, worker_device


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the EMA model and the training curve. `stage1.steps: 0` publishes the start as it is."""
    facts = fit(context, worker, context.settings.stage1)
    return facts | {"trusted": context.trusted} if context.trusted else facts


def worker(config: dict[str, Any]) -> None:
    context: StageContext = config["context"].here()
    stage, accumulate = context.settings.stage1, config["accumulate"]
    objective = AdversarialTraining(make_attack(stage.classifier_attack))
    batches = _batches(context, accumulate)
    train(context, stage, _start(context), objective, batches, Watchdog(), accumulate=accumulate)


def _start(context: StageContext) -> JointEnergyModel:
    settings = context.settings
    torch.manual_seed(stream_seed(settings.seed, "stage1/weights"))
    spec = model_spec(context.inputs["data"], settings.model.arch, settings.model.normalization)
    model = build_model(spec)
    if settings.model.checkpoint:
        path = settings.model.checkpoint
        load_start(model, Path(path), trusted=path == context.trusted)
    return model


def _batches(context: StageContext, accumulate: int) -> Batches:
    settings, stage, device = context.settings, context.settings.stage1, worker_device()
    images, labels = labelled_images(context.inputs["data"], "train", settings.compute.cpus_per_worker)
    stream = Stream.of(
        images,
        "stage1",
        seed=settings.seed,
        batch_size=stage.batch_size,
        augment=stage.augment,
        part=share(stage, accumulate),
        device=device,
    )

    def batch(step: int) -> Batch:
        indices = stream.indices(step)
        return Batch(as_float(stream.view(step, indices), device), to_device(labels[indices], device))

    return batch
