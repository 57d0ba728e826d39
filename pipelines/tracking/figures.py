"""Pictures for MLflow: training curves."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from pipelines.curves import Point, panels


def draw_curves(points: Sequence[Point], path: Path, xlabel: str) -> None:
    """One panel for each kind of curve that the points hold; a PNG file, or none without curves."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    drawn = list(panels(points))
    if not drawn:
        return
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis, (title, lines) in zip(axes.flat, drawn, strict=False):
        for name, line in lines:
            axis.plot(*zip(*line, strict=True), label=name, linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if len(lines) > 1:
            axis.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
