"""Every setting of a recipe: its type, its default and what is allowed. Pure data, no behaviour.

Validators look only at their own field and the ones above it, so that one pass finds every problem.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from atjem.models.names import ARCHITECTURES, known_arch
from data.augment_text import HELP as AUGMENT_HELP
from data.augment_text import parse_augment

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveAmount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Norm = Literal["L2", "Linf"]
Precision = Literal["fp32", "tf32", "bf16"]


def _augment(text: str) -> str:
    if parse_augment(text) is None:
        raise ValueError(f"must be {AUGMENT_HELP}")
    return text


Augment = Annotated[str, AfterValidator(_augment)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)


class Data(Section):
    in_: str = Field(
        alias="in",
        description="images to learn: a name (digits, cifar10, cifar100, mnist, fashion-mnist, imagenet), or "
        "class folders, an archive of them, Parquet files or WebDataset shards, by path or address",
    )
    ood: str = Field(
        "noise-smooth",
        description="seeds: noise-smooth, noise-uniform, openimages, or images as for `in`, without labels",
    )
    root: str = Field(".", description="where named collections and relative paths of `in` and `ood` start")
    image_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="pixels a side after resizing the short side and centre-cropping"
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(
        0,
        description="draws splits, subsets to attack and the features' network; apart from the run's seed, "
        "so that runs that differ in it are measured alike",
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2,
        description="held out of each class (and of seed folders) when the folder has no split of its own",
    )
    short_side: Positive | None = Field(
        None,
        description="keep whole images, a longer short side resized to this, so that rrc sees all of them; "
        "null keeps centre squares of image_size",
    )
    encoding: Literal["png", "webp", "jpg"] = Field(
        "png", description="of prepared images: png and webp are lossless, jpg has quality 95"
    )
    shard_mb: PositiveAmount = Field(100, description="size of a shard, about, in millions of bytes")
    max_images: Positive | None = Field(
        None, description="training images to use, and test images and seeds; null takes all"
    )
    max_bad_fraction: Fraction = Field(0.01, description="undecodable images tolerated")
    paired_views: bool = Field(False, description="both terms of stage 2 see the same real images")

    @field_validator("short_side")
    @classmethod
    def _covers(cls, short_side: int | None, info: ValidationInfo) -> int | None:
        image_size = info.data.get("image_size", 0)
        if short_side is not None and short_side < image_size:
            raise ValueError(f"must be at least image_size={image_size}")
        return short_side


class Model(Section):
    arch: str = Field(description=ARCHITECTURES)
    channels: Literal[1, 3] = Field(3, description="of the images: grey or colour")
    normalization: Literal["data", "imagenet", "none"] = Field(
        "data",
        description="the first layer's mean and std: the training images', ImageNet's usual ones, 0 and 1",
    )
    checkpoint: str | None = Field(
        None,
        description="weights that stage 1 starts from: a model folder, or a published .pt, .pth or .ckpt",
    )
    checkpoint_url: str | None = Field(
        None, description="where the checkpoint can be had, for whoever lacks it"
    )

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        if not known_arch(arch):
            raise ValueError(f"must be {ARCHITECTURES}")
        return arch


class Optimizer(Section):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveAmount = Field(description="learning rate, the highest of its schedule")
    momentum: Fraction = Field(0.9, description="of sgd, Nesterov's")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="of adamw")
    weight_decay: Amount = Field(5e-4, description="of all weights; adamw's is decoupled")
    schedule: Literal["constant", "cosine", "piecewise"] = "constant"
    warmup_steps: NonNegative = Field(0, description="optimiser steps over which the rate rises from 0")
    clip_norm: PositiveAmount | None = Field(None, description="largest L2 norm of the gradient; null: any")


class Attack(Section):
    norm: Norm = Field("L2", description="of the ball around an image")
    eps: Amount = Field(description="radius of the ball, in [0, 1] pixels; 0: plain training")
    steps: NonNegative = Field(description="steps of PGD")
    step_size: Amount = Field(description="length of a step, in the same norm")

    @field_validator("step_size")
    @classmethod
    def _moves(cls, step_size: float, info: ValidationInfo) -> float:
        if step_size == 0 and info.data.get("steps", 0) > 0:
            raise ValueError(f"must be greater than 0, since steps is {info.data['steps']}")
        return step_size


class Stage(Section):
    steps: NonNegative = Field(description="optimiser steps")
    batch_size: Positive = Field(description="images a step over all workers")
    accumulate: Positive = Field(1, description="micro-batches a step")
    optimizer: Optimizer
    classifier_attack: Attack
    augment: Augment = Field("none", description=f"the classifier's view: {AUGMENT_HELP}")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="of the average of weights that is kept; lower in the first steps"
    )
    checkpoint_every: Positive = Field(1000, description="optimiser steps between checkpoints")

    @field_validator("accumulate")
    @classmethod
    def _divides(cls, accumulate: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")
        if batch_size and batch_size % accumulate:
            raise ValueError(f"must divide batch_size={batch_size}")
        return accumulate

    @property
    def end(self) -> int:
        """The last step to train."""
        return self.steps


class Contrastive(Section):
    step_size: PositiveAmount = Field(
        description="L2 length of a step from a seed towards its class, in [0, 1] pixels"
    )
    start_steps: NonNegative = Field(0, description="T, the number of steps, at the beginning")
    max_steps: Positive = Field(description="the largest T")
    auc_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        description="T grows by one when the AUROC of real against contrastive images reaches this"
    )
    auc_window_images: Positive = Field(1000, description="images over which that AUROC is averaged")
    mode: Literal["joint", "marginal"] = Field(
        "joint", description="joint: climbs the logit of a class; marginal: the logsumexp of all"
    )

    @field_validator("max_steps")
    @classmethod
    def _reaches(cls, max_steps: int, info: ValidationInfo) -> int:
        start = info.data.get("start_steps", 0)
        if start > max_steps:
            raise ValueError(f"must be at least start_steps={start}")
        return max_steps


class Sgld(Section):
    """JEM's sampler (arXiv 1912.03263), in [0, 1] pixels."""

    steps: Positive = Field(20, description="steps of SGLD for each batch")
    step_size: PositiveAmount = Field(0.25, description="factor of the gradient in a step")
    noise: Amount = Field(0.005, description="standard deviation of the noise of a step")
    input_noise: Amount = Field(0.015, description="standard deviation of the noise on real images")
    buffer_size: Positive = Field(10_000, description="samples kept to go on from")
    reinit: Fraction = Field(0.05, description="share of samples that begin anew from uniform noise")


class Loss(Section):
    classifier_weight: Amount = Field(1.0, description="of the adversarial cross-entropy")
    energy_weight: Amount = Field(1.0, description="of the energy's term: DAT's BCE, or JEM's likelihood")
    r1_weight: Amount = Field(
        0.0, description="of 0.5 |d(-E)/dx|^2 on real images, which the method does without"
    )


class Health(Section):
    """When stage 2 counts as diverged: it goes back once, then stops. What T < 3 brings does not count."""

    max_energy_gap: PositiveAmount = Field(
        1000, description="nats between the mean energies of real and contrastive images"
    )
    max_input_gradient: PositiveAmount = Field(
        1000, description="L2 norm of the gradient that makes contrastive images, mean of a batch"
    )
    pinned_steps: Positive = Field(
        500, description="steps in a row with AUROC 1 at the largest T and an energy loss below 0.001"
    )


class Stage2(Stage):
    objective: Literal["dat", "at", "jem"] = Field(
        "dat", description="dat: the method; for comparison, at: stage 1's, jem: what the method replaces"
    )
    contrastive: Contrastive
    sgld: Sgld = Field(Sgld(), description="of the objective jem")
    loss: Loss = Loss()
    health: Health = Health()
    until: Positive | None = Field(
        None,
        description="end after so many of `steps`, whose schedule stays; a later run goes on from there",
    )
    freeze_norm: bool = Field(
        True, description="BatchNorm keeps stage 1's running statistics; false: an ablation of the paper's"
    )
    select: Literal["last", "best_frechet"] = Field(
        "last", description="the model to keep: the last, or the one with the best samples in training"
    )
    select_every: Positive = Field(1000, description="optimiser steps between looks, for best_frechet")
    select_samples: Annotated[int, Field(ge=10)] = Field(
        10_000,
        description="samples a look, compared with the test images, from seeds not used for the figures",
    )
    patience: Positive | None = Field(
        None,
        description="end after so many looks without a better one, for best_frechet; null: train all `steps`",
    )
    augment_energy: Augment = Field("none", description="the energy's view of real images")
    augment_ood: Augment = Field("none", description="the seeds' view")

    @field_validator("patience")
    @classmethod
    def _looks(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("select") == "last":
            raise ValueError("needs select=best_frechet, which looks at the model during training")
        return patience

    @field_validator("until")
    @classmethod
    def _within(cls, until: int | None, info: ValidationInfo) -> int | None:
        steps = info.data.get("steps")
        if until is not None and steps is not None and until > steps:
            raise ValueError(f"must be at most steps={steps}")
        return None if until == steps else until

    @property
    def end(self) -> int:
        """The last step to train."""
        return self.steps if self.until is None else self.until


class Sample(Section):
    num_samples: Annotated[int, Field(ge=10)] = Field(description="samples that the figures are of")
    step_size: PositiveAmount = Field(description="L2 length of a step from the seed, in [0, 1] pixels")
    steps: Positive = Field(description="steps from seed to sample, where there are no step_candidates")
    step_candidates: tuple[Positive, ...] = Field(
        (), max_length=100, description="step counts to choose from; [] takes `steps`"
    )
    num_selection: Annotated[int, Field(ge=10)] = Field(
        2560, description="samples the step count is chosen on, from other seeds than the final ones"
    )
    mode: Literal["joint", "marginal"] = Field(
        "joint", description="joint: samples of a class; marginal: of any"
    )
    seeds: Literal["ood", "test"] = Field(
        "ood", description="where samples start: held-out seeds (data.ood), or real test images"
    )
    batch_size: Positive = Field(100, description="images that ascend together")
    frames: NonNegative = Field(
        5, description="samples, at most a batch, whose way from the seed is shown step by step"
    )

    @field_validator("step_candidates")
    @classmethod
    def _ascending(cls, candidates: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(candidates)))


class Robust(Section):
    norm: Norm = Field("L2", description="of the threat model")
    eps: PositiveAmount = Field(description="radius of the threat model, in [0, 1] pixels")
    num_images: Positive = Field(1000, description="test images to attack, drawn by data.seed")
    attack: Literal["autoattack", "pgd"] = Field("autoattack", description="pgd leaves robust_accuracy out")
    pgd_steps: Positive = Field(20, description="of pgd_accuracy")
    iterations: Positive | None = Field(None, description="of each AutoAttack member; for --smoke alone")

    @field_validator("iterations")
    @classmethod
    def _standard(cls, iterations: int | None) -> None:
        if iterations is not None:
            raise ValueError("only --smoke may shorten AutoAttack; use robust.attack=pgd for a cheap figure")


class Ood(Section):
    num_images: Annotated[int, Field(ge=10)] = Field(1000, description="held-out seeds scored for ood_auroc")
    eps: PositiveAmount = Field(1.0, description="L2, within which seeds are made to look like images")
    step_size: PositiveAmount = Field(0.1, description="L2 length of their step")
    steps: Positive = Field(20, description="of their steps")


class Counterfactual(Section):
    """Real images changed within an L2 ball until the model sees another class."""

    eps: PositiveAmount = Field(4.0, description="L2; figures are also drawn at half and twice as much")
    steps: Positive = Field(75, description="of length eps / 25")
    num_images: Positive = Field(1000, description="test images to change, drawn by data.seed")


class Evaluate(Section):
    precision: Precision = Field(
        "fp32", description="of sampling and evaluation; what attacks found is checked in fp32"
    )
    batch_size: Positive | None = Field(
        None,
        description="images that evaluation differentiates together; null: what the device's memory holds",
    )
    stage1: bool = Field(False, description="measure the stage-1 model under the same protocol")
    feature_extractor: Literal["inception", "classifier", "random"] = Field(
        "inception", description="inception, or a classifier trained on the data; random is for --smoke alone"
    )
    inception_weights: str | None = Field(None, description="file of torch-fidelity's 2015 Inception weights")
    reference_statistics: str | None = Field(
        None,
        description=".npz with mu and sigma of Inception features to compare with; null takes data.in's",
    )
    reference_implementation: Literal["torch-fidelity", "pytorch-fid", "guided-diffusion"] | None = Field(
        None, description="what made reference_statistics; only torch-fidelity's fit the features here"
    )
    extractor_steps: Positive = Field(300, description="training steps of the classifier extractor")
    robust: Robust
    ood: Ood = Ood()
    counterfactual: Counterfactual = Counterfactual()

    @field_validator("feature_extractor")
    @classmethod
    def _meaningful(cls, name: str) -> str:
        if name == "random":
            raise ValueError("must be 'inception' or 'classifier'; only --smoke has random features")
        return name


class Compute(Section):
    num_workers: Positive = Field(1, description="training workers, which share the global batch")
    min_workers: Positive = Field(
        1,
        description="the fewest that training goes on with when nodes are lost; below it, it waits for nodes",
    )
    cpus_per_worker: Positive = Field(1, description="of each training worker and of each other stage")
    gpus_per_worker: Amount = Field(
        0, description="of each training worker and of each other stage that uses one; 0: CPU"
    )
    precision: Precision = Field(
        "fp32", description="of training; under bf16 images, their steps and the first layers stay fp32"
    )
    compile: bool = Field(
        False, description="torch.compile: a minute more at each new batch shape, then faster steps"
    )
    activation_checkpointing: bool = Field(
        False,
        description="less memory, a third more work: in stage 2, and without BatchNorm in stage 1",
    )
    max_restarts: NonNegative = Field(
        2, description="times that lost workers are replaced between two checkpoints"
    )
    stall_timeout: PositiveAmount = Field(
        1800, description="seconds without a training step before a restart"
    )
    log_every: Positive = Field(10, description="optimiser steps between points of the curves")

    @field_validator("min_workers")
    @classmethod
    def _at_most_all(cls, fewest: int, info: ValidationInfo) -> int:
        if fewest > (num := info.data.get("num_workers", fewest)):
            raise ValueError(f"must be at most num_workers={num}")
        return fewest

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole(cls, gpus: float, info: ValidationInfo) -> float:
        if gpus % 1 and info.data.get("num_workers", 1) > 1:
            raise ValueError("must be a whole number with several workers: NCCL needs a GPU for each of them")
        return gpus


class Published(Section):
    """Figures of a paper, shown beside a run's own."""

    source: str = Field(description="where they are from")
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        description="by the names of this project's metrics"
    )


class Settings(Section):
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(
        0,
        description="of everything random but what data.seed draws; runs that differ in it alone are repeats",
    )
    data: Data
    model: Model
    stage1: Stage
    stage2: Stage2
    sample: Sample
    evaluate: Evaluate
    compute: Compute = Compute()
    published: Published | None = None


# Settings that end a training earlier and change no step of it: it keeps its checkpoints.
ENDS = frozenset({"stage2.until"})

# Settings that cannot change a result; stages may read them, fingerprints leave them out.
RUNTIME = frozenset(
    {
        "data.root",
        "model.checkpoint_url",
        "stage1.checkpoint_every",
        "stage2.checkpoint_every",
        "compute.num_workers",
        "compute.min_workers",
        "compute.cpus_per_worker",
        "compute.gpus_per_worker",
        "compute.max_restarts",
        "compute.stall_timeout",
        "compute.log_every",
    }
)


def flatten(settings: BaseModel) -> dict[str, Any]:
    """Every leaf by its dotted name, as users write it: {'data.in': 'digits', 'stage1.steps': 300, ...}."""
    return dict(_leaves("", settings.model_dump(by_alias=True, mode="json")))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value
