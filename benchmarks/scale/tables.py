"""Tables of docs/scaling.md about the step, as Markdown."""

import math
from collections.abc import Iterable
from dataclasses import replace

from . import given
from .given import FAST, GRAPH_LAUNCH, H100, RECIPES, SLOW, Recipe, achieved, recipe
from .model import Fabric, Gpu, StepTime, step_time, synchronised_norm_seconds
from .work import total_flops

SCALES = (8, 64, 512)
BATCH = 512
NETWORKS = dict(zip(RECIPES, ("ResNet-50", "WRN-50-4", "ConvNeXt-L"), strict=True))
_BATCHNORMS = 53  # of ResNet-50 and WRN-50-4


def markdown(head: str, rows: Iterable[Iterable[str]]) -> str:
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def short(seconds: float) -> str:
    """Three figures, in the unit that suits."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= (2 if size > 1 else 1) * size:
            amount = seconds / size
            return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
    return f"{1e6 * seconds:.0f} us"


def one_step(
    of: Recipe, num_gpus: int, *, images: int | None = None, gpu: Gpu = H100, fabric: Fabric = FAST
) -> StepTime:
    stage = of.settings.stage2
    return step_time(
        of.work,
        BATCH // num_gpus if images is None else images,
        num_gpus=num_gpus,
        classifier_steps=stage.classifier_attack.steps,
        contrastive_steps=stage.contrastive.max_steps,
        moments=of.moments,
        gpu=gpu,
        fabric=fabric,
        precision=of.precision,
        achieved=achieved(of.precision),
    )


def step_flops(of: Recipe) -> float:
    """Of an image of the global batch, at the recipe's largest T."""
    stage = of.settings.stage2
    steps = stage.classifier_attack.steps + stage.contrastive.max_steps
    return steps * total_flops(of.work.attack) + total_flops(of.work.update)


def devices() -> str:
    """Eight of each device: step, utilisation, what 20 hours buy."""
    rows = []
    for name in RECIPES:
        of = recipe(name)
        for gpu in (given.A100, H100, given.MI300X):
            seconds = one_step(of, 8, gpu=gpu).total
            used = step_flops(of) * BATCH / 8 / seconds / gpu.peak[of.precision]
            hours = of.settings.stage2.steps * seconds / 3600
            rows.append(
                [
                    NETWORKS[name],
                    gpu.name,
                    of.precision,
                    short(seconds),
                    f"{used:.0%}",
                    f"{72000 / seconds:,.0f}",
                    f"{hours:.0f} h",
                ]
            )
    return markdown("network | 8 x | precision | a step | of the peak | steps in 20 h | 50,000 steps", rows)


def strong() -> str:
    """Global batch 512: where the time of a step goes, and what more GPUs bring."""
    rows = []
    for name in RECIPES:
        least = one_step(recipe(name), SCALES[0]).total
        for num in SCALES:
            step = one_step(recipe(name), num)
            parts = (step.attacks, step.update, step.state, step.reduction, step.gathers + step.curriculum)
            gain = least / step.total
            rows.append(
                [
                    NETWORKS[name],
                    f"{num}",
                    f"{BATCH // num}",
                    *map(short, parts),
                    f"**{short(step.total)}**",
                    f"{gain:.1f}",
                    f"{gain * SCALES[0] / num:.0%}",
                ]
            )
    head = "network | GPUs | images a GPU | attacks | update | optimiser, average, twin | reduction left over"
    return markdown(f"{head} | gathers, curriculum | step | faster | efficiency", rows)


def variants() -> str:
    """The same with attacks replayed as CUDA graphs, and over a slow network."""
    graphs = replace(H100, attack_launch=GRAPH_LAUNCH)
    rows = []
    for name in RECIPES:
        of = recipe(name)
        for num in SCALES[1:]:
            plain, fast = one_step(of, num), one_step(of, num, gpu=graphs)
            slow = one_step(of, num, fabric=SLOW)
            gain = one_step(of, SCALES[0], gpu=graphs).total / fast.total * SCALES[0] / num
            rows.append(
                [
                    NETWORKS[name],
                    f"{num}",
                    short(plain.total),
                    short(fast.total),
                    f"{gain:.0%}",
                    short(slow.total),
                    f"{slow.reduction / slow.total:.0%}",
                ]
            )
    head = "network | GPUs | eager | CUDA graphs | efficiency with graphs"
    return markdown(f"{head} | eager, 100 Gb/s a node | reduction's share there", rows)


def weak() -> str:
    """64 images a GPU whatever their number: another experiment, of a larger batch."""
    rows = []
    for name in RECIPES:
        steps = [one_step(recipe(name), num, images=64) for num in SCALES]
        efficiency = [f"{steps[0].total / step.total:.1%}" for step in steps]
        window = [f"{math.ceil(1000 / (64 * num))}" for num in SCALES]
        rows.append((NETWORKS[name], *efficiency, ", ".join(window)))
    return markdown("network | 8 GPUs | 64 | 512 | batches in the AUROC's window", rows)


def norms() -> str:
    """Sharing BatchNorm's statistics in stage 1, were it switched on."""
    rows = []
    for fabric in (FAST, SLOW):
        seconds = [synchronised_norm_seconds(_BATCHNORMS, num, fabric) for num in SCALES]
        rows.append((fabric.name, *map(short, seconds)))
    return markdown("network | 8 GPUs | 64 | 512", rows)


TABLES = {part.__name__: part for part in (devices, strong, variants, weak, norms)}
