"""Pictures for people: training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

_PANELS = (
    ("loss", ("loss", "classifier_loss", "energy_loss", "r1")),
    ("accuracy under the training attack", ("adversarial_accuracy",)),
    ("AUROC, real against contrastive", ("auroc",)),
    ("contrastive steps T", ("contrastive_steps",)),
    ("energy", ("energy_real", "energy_contrast")),
    ("Fréchet distance on selection samples", ("selection_frechet_distance",)),
)


def draw_curves(points: Sequence[Mapping[str, float]], path: Path, xlabel: str) -> None:
    """One panel for each kind of curve that the points hold; a PNG file."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    present = {name for point in points for name in point}
    panels = [(title, [name for name in names if name in present]) for title, names in _PANELS]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, panels, strict=False):
        for name in names:
            drawn = [(point["step"], point[name]) for point in points if name in point]
            axis.plot(*zip(*drawn, strict=True), label=name.replace("_", " "), linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
