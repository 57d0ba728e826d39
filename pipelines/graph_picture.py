"""The stage graph as a picture: an SVG of boxes and lines, for the report and for `pipelines dag`."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

_BOX, _GAP_X, _GAP_Y = (206, 46), 44, 16  # in the drawing's own units
_STYLE = Markup(
    "<style>svg { background: #fff; } rect { fill: #f6f7f9; stroke: #c9ced6; } "
    "path { fill: none; stroke: #8a93a0; } text { fill: #1c2026; font: 12px system-ui, sans-serif; } "
    "text.soft { fill: #68717d; font-size: 11px; }</style>"
)


def draw_graph(
    needs: Mapping[str, Sequence[str]], notes: Mapping[str, str], *, alone: bool = False
) -> Markup:
    """Boxes in columns by how many nodes come before; a line from each node to those that use it.

    needs: of each node, in an order in which it comes after them. notes: what stands below a node's name.
    alone: as a file of its own, which a page's style sheet does not reach.
    """
    level: dict[str, int] = {}
    for name, before in needs.items():
        level[name] = max((level[need] + 1 for need in before), default=0)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for name in needs:
        row = rows.get(level[name], 0)
        rows[level[name]] = row + 1
        place[name] = (level[name] * (_BOX[0] + _GAP_X), row * (_BOX[1] + _GAP_Y))
    width = max(x for x, _ in place.values()) + _BOX[0] + 2
    height = max(y for _, y in place.values()) + _BOX[1] + 2
    parts = [_edge(place[need], place[name]) for need, name in _edges(needs)]
    parts += [_box(name, notes[name], place[name]) for name in needs]
    own = Markup('xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" ').format(width, height)
    return Markup(
        '<svg {}class="graph" viewBox="-1 -1 {} {}" role="img" aria-label="stage graph">{}{}</svg>'
    ).format(own if alone else "", width, height, _STYLE if alone else "", Markup("").join(parts))


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


def _box(name: str, note: str, at: tuple[int, int]) -> Markup:
    x, y = at
    stage, _, rest = name.partition(".")
    below = ", ".join(filter(None, (rest, note)))
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="6"/><text x="{}" y="{}">{}</text>'
        '<text class="soft" x="{}" y="{}">{}</text>'
    ).format(x, y, *_BOX, x + 10, y + 19, stage, x + 10, y + 36, below)
