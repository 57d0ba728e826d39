"""The report's picture of the stage graph: an SVG of boxes and lines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

_BOX, _GAP_X, _GAP_Y = (206, 46), 44, 16  # in the drawing's own units


def draw_graph(manifests: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Boxes in columns by how many stages come before; a line from each stage to those that use it."""
    by_fingerprint = {manifest["fingerprint"]: name for name, manifest in manifests.items()}
    needs = {
        name: sorted(
            {by_fingerprint[f] for f in manifest["identity"]["inputs"].values() if f in by_fingerprint}
        )
        for name, manifest in manifests.items()
    }
    level = dict.fromkeys(manifests, 0)
    for _ in manifests:
        for name, before in needs.items():
            level[name] = max((level[need] + 1 for need in before), default=0)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for name in manifests:
        row = rows.get(level[name], 0)
        rows[level[name]] = row + 1
        place[name] = (level[name] * (_BOX[0] + _GAP_X), row * (_BOX[1] + _GAP_Y))
    width = max(x for x, _ in place.values()) + _BOX[0] + 2
    height = max(y for _, y in place.values()) + _BOX[1] + 2
    parts = [_edge(place[need], place[name]) for need, name in _edges(needs)]
    parts += [_box(name, manifests[name]["seconds"], place[name]) for name in manifests]
    drawing = Markup("").join(parts)
    return Markup(
        '<svg class="graph" viewBox="-1 -1 {} {}" role="img" aria-label="stage graph">{}</svg>'
    ).format(width, height, drawing)


def _edges(needs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """(need, name) pairs, without those that follow from others: the longer way is shown anyway."""
    for name, before in needs.items():
        for need in before:
            if not any(need in _before(other, needs) for other in before):
                yield need, name


def _before(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    return {earlier for need in needs[name] for earlier in (need, *_before(need, needs))}


def _edge(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    x1, y1 = start[0] + _BOX[0], start[1] + _BOX[1] // 2
    x2, y2 = end[0], end[1] + _BOX[1] // 2
    bend = (x1 + x2) // 2
    return Markup('<path d="M{} {} C{} {} {} {} {} {}"/>').format(x1, y1, bend, y1, bend, y2, x2, y2)


def _box(name: str, seconds: float, at: tuple[int, int]) -> Markup:
    x, y = at
    stage, _, rest = name.partition(".")
    below = f"{rest + ', ' if rest else ''}{seconds:.1f} s"
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="6"/><text x="{}" y="{}">{}</text>'
        '<text class="soft" x="{}" y="{}">{}</text>'
    ).format(x, y, *_BOX, x + 10, y + 19, escape(stage), x + 10, y + 36, escape(below))
