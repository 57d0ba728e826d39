"""docs/scaling.png: where a step's time goes, what more GPUs bring, and how often to save."""

from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from . import given
from .given import RECIPES, recipe
from .goodput import daly_interval, mean_goodput
from .model import GPUS_PER_NODE
from .tables import NETWORKS, SCALES, one_step, short
from .traffic import saved_bytes

_PARTS = {
    "attacks": "#4477aa",
    "update": "#66ccee",
    "state": "#228833",
    "reduction": "#ee6677",
    "gathers": "#aa3377",
    "curriculum": "#bbbbbb",
}
_COLOURS = ("#4477aa", "#ee6677", "#228833")


def draw(path: Path) -> None:
    figure, (shares, speed, saving) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _shares(shares)
    _speed(speed)
    _saving(saving)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _shares(axes: Axes) -> None:
    """Bars of equal height: what a step's time is spent on."""
    names = [(name, num) for name in RECIPES for num in SCALES]
    bottom = np.zeros(len(names))
    steps = [one_step(recipe(name), num) for name, num in names]
    for part, colour in _PARTS.items():
        heights = np.array([100 * getattr(step, part) / step.total for step in steps])
        axes.bar(range(len(names)), heights, bottom=bottom, color=colour, label=part)
        bottom += heights
    middle = SCALES[1]
    ticks = [f"{num}" + f"\n{NETWORKS[name]}" * (num == middle) for name, num in names]
    axes.set_xticks(range(len(names)), ticks)
    axes.set_title("Share of a step, batch 512 on 8, 64, 512 H100")
    axes.set_ylabel("%")
    axes.legend(fontsize=8, loc="lower left")


def _speed(axes: Axes) -> None:
    """Speed-up over 8 GPUs: eager, with the attacks as CUDA graphs, ideal."""
    scales = [8, 16, 32, 64, 128, 256, 512]
    graphs = replace(given.H100, attack_launch=given.GRAPH_LAUNCH)
    for name, colour in zip(RECIPES, _COLOURS, strict=True):
        of = recipe(name)
        for gpu, style in ((given.H100, "-"), (graphs, "--")):
            seconds = [one_step(of, num, gpu=gpu).total for num in scales]
            label = f"{NETWORKS[name]}{', CUDA graphs' * (style == '--')}"
            axes.plot(scales, [seconds[0] / each for each in seconds], style, color=colour, label=label)
    axes.plot(scales, [num / 8 for num in scales], ":", color="black", label="ideal")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(scales, [str(num) for num in scales])
    axes.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axes.set_title("Faster than 8 GPUs, batch 512")
    axes.set_xlabel("H100")
    axes.legend(fontsize=8)


def _saving(axes: Axes) -> None:
    """Goodput on spot machines against the time between checkpoints; Daly's optimum as a point."""
    of = recipe("imagenet256-convnext-large")
    for num, colour in zip(SCALES, _COLOURS, strict=True):
        nodes = num // GPUS_PER_NODE
        job = given.failing(nodes, given.SPOT_HOURS, given.PAUSE_SECONDS, saved_bytes(of), spot=True)
        minutes = np.geomspace(0.3, 60, 16)
        goodput = [100 * mean_goodput(job, 60 * each, 72000, 100) for each in minutes]
        axes.plot(minutes, goodput, color=colour, label=f"{num} GPUs, a loss every {short(job.mean_seconds)}")
        best = daly_interval(job.pause, job.mean_seconds)
        axes.plot(best / 60, 100 * mean_goodput(job, best, 72000, 100), "o", color=colour)
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10, 30, 60]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_title("Progress on spot machines (dots: Daly's interval)")
    axes.set_xlabel("minutes between checkpoints")
    axes.set_ylabel("% of the time")
    axes.legend(fontsize=8)
