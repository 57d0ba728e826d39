"""Time and traffic of a training step on many GPUs: formulas alone, in seconds and bytes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from .work import Operation, Work

GPUS_PER_NODE = 8
BUCKET_BYTES = 25 << 20  # of DistributedDataParallel: what is reduced at once
SMALL_REDUCTIONS, GATHERS = 2, 2  # a step: means of the metrics and the wish to stop; scores of both batches
_FP32 = 4


@dataclass(frozen=True)
class Gpu:
    """Peak FLOP/s by precision (dense), bytes/s of its memory, seconds that a launch takes the host.

    attack_launch: the same in attacks, which `compute.compile` replays as CUDA graphs.
    """

    name: str
    peak: Mapping[str, float]
    memory: float
    launch: float
    attack_launch: float


@dataclass(frozen=True)
class Fabric:
    """Bytes/s that collectives reach inside a node (a GPU's link) and between nodes (all links of a node).

    hop: seconds from one GPU to the next, whatever the size.
    """

    name: str
    inside: float
    between: float
    hop: float

    def bandwidth(self, num_gpus: int) -> float:
        return self.inside if num_gpus <= GPUS_PER_NODE else min(self.inside, self.between)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step, by what they are spent on."""

    attacks: float
    update: float
    state: float  # optimiser, average, the attack's twin
    reduction: float  # of gradients, as far as the backward pass does not hide it
    gathers: float  # scores for the AUROC, means, the wish to stop
    curriculum: float  # the host waits for the last AUROC, then has no launches queued

    @property
    def total(self) -> float:
        return math.fsum(getattr(self, part.name) for part in fields(self))


def all_reduce_seconds(num_bytes: float, num: int, bandwidth: float, hop: float) -> float:
    """A ring moves 2 (n - 1) / n of the bytes through each link; a tree's latency is 2 log2 n hops.

    NCCL takes the ring's bandwidth where bytes count and the tree's latency where hops do.
    """
    return 2 * (num - 1) / num * num_bytes / bandwidth + 2 * math.ceil(math.log2(num)) * hop


def all_gather_seconds(num_bytes: float, num: int, bandwidth: float, hop: float) -> float:
    """A ring of n - 1 hops; num_bytes: of everything that is gathered."""
    return (num - 1) / num * num_bytes / bandwidth + (num - 1) * hop


def exposed_seconds(num_bytes: float, num: int, bandwidth: float, hop: float, backward: float) -> float:
    """What the all-reduce adds to a step whose backward pass takes `backward`.

    Buckets are reduced as they fill up, so the reduction runs beside the backward pass; the last bucket is
    full only when that ends.
    """
    buckets = max(1, math.ceil(num_bytes / BUCKET_BYTES))
    one = all_reduce_seconds(num_bytes / buckets, num, bandwidth, hop)
    return max(one, buckets * one - backward)


def pass_seconds(
    operations: Sequence[Operation], images: float, gpu: Gpu, precision: str, achieved: float, launch: float
) -> float:
    """Every operation takes its arithmetic, its memory traffic or its launch, whichever is longest.

    achieved: the share of the peaks that is reached, for arithmetic and memory alike.
    """
    peak, memory = achieved * gpu.peak[precision], achieved * gpu.memory
    return math.fsum(
        max(launch, images * one.flops / peak, (images * one.bytes_of_image + one.bytes_fixed) / memory)
        for one in operations
    )


def step_time(
    work: Work,
    images: int,
    *,
    num_gpus: int,
    classifier_steps: int,
    contrastive_steps: int,
    moments: int,
    gpu: Gpu,
    fabric: Fabric,
    precision: str,
    achieved: float,
) -> StepTime:
    """One step of stage 2 with `images` of the global batch on each GPU.

    Both attacks climb in one batch for as long as both last. moments: tensors that the optimiser keeps for
    each parameter.
    """

    def attack(num: int) -> float:
        return pass_seconds(work.attack, num, gpu, precision, achieved, gpu.attack_launch)

    together = min(classifier_steps, contrastive_steps)
    alone = max(classifier_steps, contrastive_steps) - together
    update = pass_seconds(work.update, images, gpu, precision, achieved, gpu.launch)
    refresh = pass_seconds(work.refresh, 0, gpu, precision, achieved, gpu.launch)
    bandwidth, gradients = fabric.bandwidth(num_gpus), _FP32 * work.parameters
    backward = update * 2 / 3  # two of the three parts of its arithmetic
    # Weights, gradients and moments are read, weights and moments written; the average reads two, writes one.
    state = (2 * moments + 3 + 3) * gradients / (achieved * gpu.memory)
    small = SMALL_REDUCTIONS * all_reduce_seconds(64, num_gpus, bandwidth, fabric.hop)
    scores = GATHERS * all_gather_seconds(_FP32 * images * num_gpus, num_gpus, bandwidth, fabric.hop)
    return StepTime(
        together * attack(2 * images) + alone * attack(images),
        update,
        refresh + state,
        exposed_seconds(gradients, num_gpus, bandwidth, fabric.hop, backward) if num_gpus > 1 else 0.0,
        small + scores if num_gpus > 1 else 0.0,
        20 * gpu.launch,
    )


def synchronised_norm_seconds(num_layers: int, num_gpus: int, fabric: Fabric) -> float:
    """What sharing BatchNorm's statistics adds to a step of stage 1: a gather and a reduction a layer."""
    bandwidth = fabric.bandwidth(num_gpus)
    gather = all_gather_seconds(0, num_gpus, bandwidth, fabric.hop)
    return num_layers * (gather + all_reduce_seconds(0, num_gpus, bandwidth, fabric.hop))


def checkpoint_bytes(parameters: int, moments: int, *, keeps_best: bool) -> int:
    """Model, average and moments; with `keeps_best` the best model too."""
    return _FP32 * parameters * (1 + 1 + moments + keeps_best)


def images_needed(global_batch: int, step_seconds: float) -> float:
    """Images a second of all three streams: classifier, energy, seeds."""
    return 3 * global_batch / step_seconds
