"""What each network weighs: parameters, work and memory, known without importing torch.

The figures are those that tests/atjem/models/test_footprint.py counts on tensors without values.
"""

from dataclasses import dataclass

from atjem.models.names import ARCHITECTURES, parse_wrn

_PIXELS = 256 * 256  # of the images that the table is for
_TEMPORARIES = 1.1  # gradients in flight and the allocator's rounding, over what is saved

# At 256 px, 3 channels, 1000 classes: parameters, features before the last layer, parameters of the first
# layer for each channel, GFLOP of a forward pass; then MB that one image keeps for an attack, an update, and
# an update that recomputes its blocks, in fp32 and in bf16.
SIZED: dict[str, tuple[int, int, int, float, tuple[float, ...], tuple[float, ...]]] = {
    "resnet-18": (11_689_512, 512, 3136, 4.74, (16.0, 29.0, 21.4), (11.5, 20.1, 16.8)),
    "resnet-50": (25_557_032, 2048, 3136, 10.68, (54.1, 112.2, 58.5), (31.1, 62.3, 35.9)),
    "wrn-50-4": (223_439_144, 2048, 3136, 96.95, (105.6, 215.2, 71.0), (56.9, 113.8, 42.2)),
    "convnext-tiny": (28_589_128, 768, 1536, 11.64, (75.3, 142.6, 38.1), (45.9, 79.6, 27.3)),
    "convnext-tiny-cvst": (28_627_432, 768, 432, 11.98, (86.5, 153.7, 49.2), (57.1, 90.7, 38.5)),
    "convnext-small": (50_223_688, 768, 1536, 22.68, (117.8, 227.5, 45.1), (70.7, 125.6, 34.4)),
    "convnext-small-cvst": (50_261_992, 768, 432, 23.03, (129.0, 238.7, 56.3), (81.9, 136.7, 45.6)),
    "convnext-base": (88_591_464, 1024, 2048, 40.11, (156.8, 303.0, 59.9), (94.0, 167.1, 45.6)),
    "convnext-base-cvst": (88_753_416, 1024, 576, 41.47, (176.3, 322.6, 79.4), (113.5, 186.7, 65.2)),
    "convnext-large": (197_767_336, 1536, 3072, 89.76, (234.6, 454.0, 89.4), (140.4, 250.2, 67.9)),
    "convnext-large-cvst": (198_134_680, 1536, 864, 92.83, (263.9, 483.3, 118.6), (169.7, 279.4, 97.2)),
}

# Which published weights `model.checkpoint` takes for an architecture (layouts: `atjem.published_layouts`).
PUBLISHED = {
    "wrn-28-10": "RobustBench state dicts; github.com/RobustBench/robustbench",
    "wrn-34-10": "RobustBench state dicts, the reference implementation's stage 2",
    "resnet-18": "robustness L2 and Linf ImageNet; github.com/microsoft/robust-models-transfer",
    "resnet-50": "robustness L2 and Linf ImageNet; github.com/microsoft/robust-models-transfer",
    "wrn-50-4": "robustness L2 ImageNet; github.com/microsoft/robust-models-transfer",
    "convnext-tiny-cvst": "ConvNeXt-T-CvSt; github.com/nmndeep/revisiting-at",
    "convnext-small-cvst": "ConvNeXt-S-CvSt; github.com/nmndeep/revisiting-at",
    "convnext-base-cvst": "ConvNeXt-B-CvSt; github.com/nmndeep/revisiting-at",
    "convnext-large-cvst": "ConvNeXt-L-CvSt; github.com/nmndeep/revisiting-at",
}


@dataclass(frozen=True)
class Footprint:
    """A network at an image size.

    flops: of one image's forward pass, two for a multiply-add of a convolution or a linear layer. The others
    are bytes that one image keeps until the backward pass: `attack` (the image's gradient alone, through
    `AttackNetwork`), `update`, and `recompute` (an update with activation checkpointing, and one block).
    """

    parameters: int
    flops: float
    attack: float
    update: float
    recompute: float


def footprint(arch: str, *, num_classes: int, channels: int, image_size: int, precision: str) -> Footprint:
    """precision: fp32, tf32 or bf16. Raises ValueError for an unknown architecture."""
    bf16 = precision == "bf16"
    if shape := parse_wrn(arch):
        return _wide_resnet(*shape, num_classes, channels, image_size, bf16=bf16)
    if arch not in SIZED:
        raise ValueError(f"arch={arch!r} is unknown; use {ARCHITECTURES}")
    parameters, features, stem, gflops, *megabytes = SIZED[arch]
    parameters += (num_classes - 1000) * (features + 1) + (channels - 3) * stem
    scale = image_size**2 / _PIXELS
    attack, update, recompute = (1e6 * scale * amount for amount in megabytes[bf16])
    return Footprint(parameters, 1e9 * scale * gflops, attack, update, recompute)


def training_bytes(
    arch: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    precision: str,
    attacked: int,
    updated: int,
    moments: int,
    recompute: bool,
    compiled: bool = False,
    several: bool = False,
) -> float:
    """An estimate of the most memory that a training step takes on one device.

    attacked, updated: images in the attacks' and the update's batch (DAT: two and three times a worker's
    micro-batch); `moments`: tensors that the optimiser keeps for each parameter (SGD one, AdamW two).
    Weights, gradients, moments and average are fp32. Attacks and update do not overlap in time, but a
    compiled attack keeps its memory as long as its CUDA graph. several: DDP's buckets copy the gradients.
    """
    own = footprint(
        arch, num_classes=num_classes, channels=channels, image_size=image_size, precision=precision
    )
    standing = 4 * own.parameters * (1 + 1 + moments + 1 + several)
    twin = (2 if precision == "bf16" else 4 * (not arch.startswith("convnext"))) * own.parameters
    casts = 2 * own.parameters if precision == "bf16" else 0
    kept = updated * (own.recompute if recompute else own.update)
    passes = (attacked * own.attack, kept)
    return standing + twin + casts + _TEMPORARIES * (sum(passes) if compiled else max(passes))


def evaluation_bytes(
    arch: str, *, num_classes: int, channels: int, image_size: int, precision: str, images: int
) -> float:
    """An estimate of the most memory that an evaluation takes on one device.

    It differentiates `images` at a time by their pixels, through the frozen network.
    """
    own = footprint(
        arch, num_classes=num_classes, channels=channels, image_size=image_size, precision=precision
    )
    folded = 4 * (not arch.startswith("convnext")) * own.parameters
    casts = 2 * own.parameters if precision == "bf16" else 0
    return 4 * own.parameters + folded + casts + _TEMPORARIES * images * own.attack


def fitting_batch(
    arch: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    precision: str,
    memory: float,
    most: int,
) -> int:
    """Images, from 1 to `most`, that an evaluation in `memory` bytes can differentiate together."""
    shape = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    none, one = (evaluation_bytes(arch, **shape, precision=precision, images=images) for images in (0, 1))
    return max(1, int(min(most, (memory - none) / (one - none))))


def _wide_resnet(
    depth: int, width: int, num_classes: int, channels: int, image_size: int, *, bf16: bool
) -> Footprint:
    """Sums over the blocks of `atjem.models.wrn`; the first one's norm is folded into the stem."""
    area, planes = image_size**2, 16
    stem, pixels = planes * area, channels * area
    parameters, macs = 9 * channels * planes, 9 * pixels * planes
    attack, update, inputs, largest = -stem if width > 1 else 0, pixels, pixels, 0
    for group in range(3):
        out = 16 * width * 2**group
        for block in range((depth - 4) // 6):
            before = planes * area
            area //= 4 if group and block == 0 else 1
            after = out * area
            shortcut = planes * out if planes != out or (group and block == 0) else 0
            weights = 9 * out * (planes + out) + shortcut
            parameters += weights + 2 * (planes + out)
            macs += weights * area
            attack += 2 * before + after
            update += 2 * (before + after)
            inputs += before
            largest = max(largest, 2 * (before + after))
            planes = out
    last = 2 * planes * area
    parameters += 2 * planes + (planes + 1) * num_classes
    elements = (attack + pixels + last, update + last, inputs + last + largest)
    extra = [amount * stem + 2 * pixels if bf16 else 0 for amount in (6, 8, 2)]  # the stem's part is in fp32
    kept = ((2 if bf16 else 4) * amount + more for amount, more in zip(elements, extra, strict=True))
    return Footprint(parameters, 2.0 * (macs + planes * num_classes), *kept)
