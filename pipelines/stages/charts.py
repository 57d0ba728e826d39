"""The report's charts: SVG images, each in a light and a dark variant."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.rcsetup import cycler

from pipelines.curves import Line, Point

Draw = Callable[[Axes], None]
_BINS = 60
_FEWEST = 5  # images in a bin of the reliability diagram
_INK = {"light": "#3b4252", "dark": "#cfd6e4"}
_COLOURS = {
    "light": ["#2f6fb2", "#d1602b", "#3a8f5c", "#8a5fb0"],
    "dark": ["#7db4ea", "#f0925f", "#7ccf9c", "#c3a1e6"],
}


def draw_chart(draw: Draw, *, width: float = 4.4, height: float = 2.8) -> dict[str, str]:
    """{'light': svg, 'dark': svg}; `draw` fills one pair of axes. Same input, same bytes."""
    return {theme: _render(draw, theme, width, height).decode() for theme in _INK}


def curves(lines: Sequence[Line], title: str, xlabel: str) -> Draw:
    """One picture of lines over steps."""

    def draw(axes: Axes) -> None:
        for name, line in lines:
            axes.plot(*zip(*line, strict=True), label=name, linewidth=1.6)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        if len(lines) > 1:
            axes.legend(frameon=False)

    return draw


def reliability(bins: Mapping[str, Sequence[Point]]) -> Draw:
    """Accuracy against confidence for each model; the diagonal is perfect calibration.

    Bins of fewer than five images, whose accuracy is chance, are left out.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], linestyle=":", linewidth=1.2, color="grey")
        for model, own in bins.items():
            total = max(1, sum(b["count"] for b in own))
            drawn = [b for b in own if b["count"] >= _FEWEST]
            confidences, accuracies = [b["confidence"] for b in drawn], [b["accuracy"] for b in drawn]
            sizes = [12 + 90 * b["count"] / total for b in drawn]
            axes.plot(confidences, accuracies, linewidth=1.2, alpha=0.6)
            axes.scatter(confidences, accuracies, s=sizes, label=model)
        axes.set_title("Reliability: accuracy at each confidence")
        axes.set_xlabel("confidence (dot size: share of images)")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False, loc="upper left")

    return draw


def histograms(values: Mapping[str, Sequence[float]], title: str, xlabel: str) -> Draw:
    """Densities of several sets of values, in bins that they share."""

    def draw(axes: Axes) -> None:
        everything = [value for own in values.values() for value in own]
        bins = np.linspace(min(everything), max(everything), _BINS + 1).tolist()
        for name, own in values.items():
            axes.hist(own, bins, density=True, histtype="stepfilled", alpha=0.35, label=name)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_yticks([])
        axes.legend(frameon=False)

    return draw


def write_png(draw: Draw, path: Path) -> None:
    """The light variant as a picture for MLflow."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_render(draw, "light", 6.0, 3.8, file_format="png"))


def _render(draw: Draw, theme: str, width: float, height: float, file_format: str = "svg") -> bytes:
    ink = _INK[theme]
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.prop_cycle": cycler("color", _COLOURS[theme]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.2,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
        ),
    }
    matplotlib.use("agg")
    with matplotlib.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        buffer = io.BytesIO()
        drawn: dict[str, Any] = {"transparent": True, "metadata": {"Date": None}}
        figure.savefig(buffer, format=file_format, **(drawn if file_format == "svg" else {"dpi": 120}))
        plt.close(figure)
    return buffer.getvalue()
