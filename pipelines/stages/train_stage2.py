"""Stage 2: dual adversarial training with frozen normalisation, from stage 1's model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from atjem.adversarial import AdversarialTraining, DualAdversarialTraining
from atjem.checkpoint import load
from atjem.curriculum import Curriculum, window_length
from atjem.health import Limits, Watchdog
from atjem.jem import JointEnergyTraining, ReplayBuffer, Sgld
from atjem.models.registry import ModelSpec
from atjem.training_objective import Batch, Objective
from data.batches import Stream, paired_views
from data.devices import to_device
from data.images import Images
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, seed_images
from pipelines.stages.training import fit, make_attack, share
from pipelines.stages.training_loop import Batches, train, worker_device

if TYPE_CHECKING:
    from pipelines.settings import Stage2


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the EMA model and the training curve. That JEM diverges is an outcome, not a failure."""
    stage = context.settings.stage2
    return fit(context, worker, stage, may_diverge=stage.objective == "jem")


def worker(config: dict[str, Any]) -> None:
    context: StageContext = config["context"].here()
    stage = context.settings.stage2
    model = load(context.inputs["start"])
    chooser = None
    if stage.select == "best_frechet":  # not an import statement: only then is the sampler this stage's code
        chooser = import_module("pipelines.stages.selection").BestModel(context)
    objective = _objective(context, model.spec)
    train(
        context,
        stage,
        model,
        objective,
        _batches(context, config["accumulate"]),
        _watchdog(stage),
        accumulate=config["accumulate"],
        curriculum=_curriculum(stage),
        chooser=chooser,
        may_return=stage.objective != "jem",  # its instability is an outcome
    )


def _watchdog(stage: "Stage2") -> Watchdog:
    health = stage.health
    limits = Limits(health.max_energy_gap, health.max_input_gradient, health.pinned_steps)
    return Watchdog(limits, None if stage.objective == "jem" else stage.contrastive.max_steps)


def _curriculum(stage: "Stage2") -> Curriculum | None:
    contrastive = stage.contrastive
    if stage.objective == "jem":
        return None
    return Curriculum(
        contrastive.start_steps,
        contrastive.max_steps,
        contrastive.auc_threshold,
        window_length(contrastive.auc_window_images, stage.batch_size),
    )


def _objective(context: StageContext, spec: ModelSpec) -> Objective:
    stage = context.settings.stage2
    attack = make_attack(stage.classifier_attack)
    if stage.objective == "jem":
        return _joint_energy(context, spec)
    if stage.objective == "at":
        return AdversarialTraining(attack, freezes_norm=stage.freeze_norm)
    return DualAdversarialTraining(
        attack,
        stage.contrastive.step_size,
        stage.contrastive.mode,
        stage.loss.classifier_weight,
        stage.loss.energy_weight,
        stage.loss.r1_weight,
        freezes_norm=stage.freeze_norm,
    )


def _joint_energy(context: StageContext, spec: ModelSpec) -> Objective:
    sgld, stage = context.settings.stage2.sgld, context.settings.stage2
    generator = torch.Generator().manual_seed(stream_seed(context.settings.seed, "stage2/buffer"))
    shape = (spec.channels, spec.image_size, spec.image_size)
    return JointEnergyTraining(
        Sgld(sgld.steps, sgld.step_size, sgld.noise),
        ReplayBuffer.of_noise(sgld.buffer_size, shape, sgld.reinit, generator),
        sgld.input_noise,
        stage.loss.energy_weight,
        freezes_norm=stage.freeze_norm,
    )


def _stream(context: StageContext, name: str, images: Images, augment: str, accumulate: int) -> Stream:
    stage = context.settings.stage2
    return Stream.of(
        images,
        f"stage2/{name}",
        seed=context.settings.seed,
        batch_size=stage.batch_size,
        augment=augment,
        part=share(stage, accumulate),
        device=worker_device(),
    )


def _batches(context: StageContext, accumulate: int) -> Batches:
    settings, stage, data = context.settings, context.settings.stage2, context.inputs["data"]
    readers, device = settings.compute.cpus_per_worker, worker_device()
    images, labels = labelled_images(data, "train", readers)
    seeds = seed_images(
        data,
        settings.data.ood,
        held_out=False,
        seed=settings.seed,
        channels=settings.model.channels,
        image_size=settings.data.image_size,
        readers=readers,
    )
    classifier = _stream(context, "classifier", images, stage.augment, accumulate)
    energy = _stream(context, "energy", images, stage.augment_energy, accumulate)
    ood = _stream(context, "ood", seeds, stage.augment_ood, accumulate)
    paired = settings.data.paired_views

    def batch(step: int) -> Batch:
        indices = classifier.indices(step)
        real = indices if paired else energy.indices(step)
        if paired:
            x, x_real = paired_views((classifier, energy), step, indices)
        else:
            x, x_real = classifier.view(step, indices), energy.view(step, real)
        return Batch(
            as_float(x, device),
            to_device(labels[indices], device),
            as_float(x_real, device),
            to_device(labels[real], device),
            as_float(ood.view(step, ood.indices(step)), device),
            stream_seed(settings.seed, f"stage2/noise/{step}"),
        )

    return batch
