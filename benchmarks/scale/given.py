"""What the model is fed with: devices by their makers' figures, rates measured, recipes as shipped."""

from dataclasses import dataclass
from functools import lru_cache

from pipelines.compute.memory import recomputes
from pipelines.recipe import load_recipe
from pipelines.settings import Settings

from .goodput import Failing
from .model import Fabric, Gpu
from .work import Operation, Work, count_plain_training, count_step

# Measured by `python benchmarks/scaling.py --measure` on two shared CPU cores, 2026-11.
STREAM_RATE = 500  # images a CPU second: 384 px JPEGs, random resized crops; the test view is a little faster
WRITE_SECONDS, HASH_SECONDS = 1.4e-9, 0.8e-9  # a byte of a checkpoint
FRECHET_SECONDS = 6.0  # one distance in 2048 features, one thread
RAY_CALLS = 1900  # actor calls a second by one process
REPLACED_SECONDS = 45  # from a lost node to the next step, the new node already booted

# Assumed.
EAGER_LAUNCH, GRAPH_LAUNCH = 20e-6, 2e-6  # seconds of the host an operation; here it takes 26 to 38 us
LINKS = 0.8  # of a link's rate that collectives reach
IMAGE_BYTES = 110e3  # of ImageNet at 384 px, JPEG quality 95
BOOT_SECONDS, SPOT_WAIT = 180.0, 600.0
PAUSE_SECONDS = 1.0  # that a checkpoint stops training when it is copied at once and written beside it
NODE_NETWORK = 1.25e9  # bytes/s from the object store to a node

# Peaks, dense, from the data sheets of A100 80 GB SXM, H100 SXM and MI300X. Calibrated below.
A100 = Gpu("A100", {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12}, 2.039e12, EAGER_LAUNCH, EAGER_LAUNCH)
H100 = Gpu("H100", {"fp32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12}, 3.35e12, EAGER_LAUNCH, EAGER_LAUNCH)
MI300X = Gpu(
    "MI300X", {"fp32": 163.4e12, "tf32": 653.7e12, "bf16": 1307.4e12}, 5.3e12, EAGER_LAUNCH, EAGER_LAUNCH
)
FAST = Fabric("400 Gb/s a GPU", LINKS * 450e9, LINKS * 400e9, 10e-6)
SLOW = Fabric("100 Gb/s a node", LINKS * 450e9, LINKS * 12.5e9, 25e-6)

# Training of ResNet-50 on one A100, images a second at 224 px (NVIDIA DeepLearningExamples, PyTorch): what
# real code reaches. The rest of the world's overheads are in it.
PUBLISHED_RATE, PUBLISHED_BATCH = {"tf32": 938, "bf16": 2470}, 256

# 419 unplanned interruptions in 54 days on 2,048 nodes (Llama 3, 2024), and a guess for spot machines.
RESERVED_HOURS, SPOT_HOURS = 54 * 24 * 2048 / 419, 24.0

RECIPES = ("imagenet256", "imagenet256-wrn50x4", "imagenet256-convnext-large")
INCEPTION_FLOPS = 11.4e9  # an image of 299 px
_MOMENTS = {"sgd": 1, "adamw": 2}


@dataclass(frozen=True)
class Recipe:
    """A shipped recipe's stage 2, with its work counted."""

    name: str
    settings: Settings
    work: Work

    @property
    def precision(self) -> str:
        return self.settings.compute.precision

    @property
    def moments(self) -> int:
        return _MOMENTS[self.settings.stage2.optimizer.name]


@lru_cache
def recipe(name: str) -> Recipe:
    settings = load_recipe(name, ())[0].settings
    assert not recomputes(settings, "stage2")
    precision = settings.compute.precision
    return Recipe(
        name, settings, count_step(settings.model.arch, settings.data.image_size, precision=precision)
    )


@lru_cache
def achieved(precision: str) -> float:
    """The share of an A100's peaks at which the counted work of plain training takes its published time."""
    operations = count_plain_training("resnet-50", 224, precision)
    at_peak = sum(_seconds_at_peak(one, precision) for one in operations)
    return PUBLISHED_RATE[precision] * at_peak / PUBLISHED_BATCH


def _seconds_at_peak(one: Operation, precision: str) -> float:
    moved = PUBLISHED_BATCH * one.bytes_of_image + one.bytes_fixed
    return max(PUBLISHED_BATCH * one.flops / A100.peak[precision], moved / A100.memory)


def failing(num_nodes: int, node_hours: float, pause: float, num_bytes: float, *, spot: bool) -> Failing:
    """A job whose checkpoints are uploaded beside training; a new node fetches what it needs first."""
    fetched = (num_bytes + dataset_bytes()) / NODE_NETWORK
    restart = REPLACED_SECONDS + BOOT_SECONDS + fetched
    return Failing(
        num_nodes, node_hours, pause, num_bytes / NODE_NETWORK, restart, SPOT_WAIT if spot else 0.0
    )


def dataset_bytes() -> float:
    """Shards of ImageNet and of 350,000 seeds."""
    return IMAGE_BYTES * (1_281_167 + 50_000 + 350_000)
