"""The stage graph as a picture: an SVG of boxes and lines, for the report and for `pipelines dag`."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from markupsafe import Markup

_BOX, _GAP_X, _GAP_Y = (206, 46), 44, 16  # in the drawing's own units
_ROUNDS = 4
_STYLE = Markup(
    "<style>svg { background: #fff; } rect { fill: #f6f7f9; stroke: #c9ced6; } "
    "path { fill: none; stroke: #8a93a0; } text { fill: #1c2026; font: 12px system-ui, sans-serif; } "
    "text.soft { fill: #68717d; font-size: 11px; }</style>"
)


@dataclass(frozen=True)
class _Spot:
    """A node's box; or, in a column further left, the lane that lines to it take between the boxes there."""

    node: str
    column: int
    is_box: bool

    @property
    def height(self) -> int:
        return _BOX[1] if self.is_box else 0

    @property
    def x(self) -> int:
        return self.column * (_BOX[0] + _GAP_X)


_Links = Collection[tuple[_Spot, _Spot]]


def draw_graph(
    needs: Mapping[str, Sequence[str]], notes: Mapping[str, str], *, alone: bool = False
) -> Markup:
    """Boxes in columns by how many nodes come before; a line from each node to those that use it.

    needs: of each node, in an order in which it comes after them. notes: what stands below a node's name.
    alone: as a file of its own, which a page's style sheet does not reach.
    """
    boxes: dict[str, _Spot] = {}
    for name, before in needs.items():
        boxes[name] = _Spot(name, max((boxes[need].column + 1 for need in before), default=0), True)
    links = dict.fromkeys(link for need, name in _edges(needs) for link in _way(boxes[need], boxes[name]))
    middle = _middles(boxes.values(), links)
    width = max(spot.x for spot in boxes.values()) + _BOX[0] + 2
    height = max(middle[spot] for spot in boxes.values()) + _BOX[1] // 2 + 2
    lanes = dict.fromkeys(spot for link in links for spot in link if not spot.is_box)
    parts = [_line(start, end, middle) for start, end in links]
    parts += [_through(lane, middle) for lane in lanes]
    parts += [_box(name, notes[name], boxes[name], middle) for name in needs]
    own = Markup('xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" ').format(width, height)
    return Markup(
        '<svg {}class="graph" viewBox="-1 -1 {} {}" role="img" aria-label="stage graph">{}{}</svg>'
    ).format(own if alone else "", width, height, _STYLE if alone else "", Markup("").join(parts))


def _way(start: _Spot, end: _Spot) -> Iterator[tuple[_Spot, _Spot]]:
    """From box to box, through a lane of each column between; lines to the same box share their lanes."""
    lanes = [_Spot(end.node, column, False) for column in range(start.column + 1, end.column)]
    return pairwise([start, *lanes, end])


def _middles(boxes: Iterable[_Spot], links: _Links) -> dict[_Spot, int]:
    """The height of each spot's middle. Spots stand beside those that they are linked with (barycentres)."""
    columns: dict[int, list[_Spot]] = {}
    for spot in dict.fromkeys([*boxes, *(spot for link in links for spot in link)]):
        columns.setdefault(spot.column, []).append(spot)
    needs: dict[_Spot, list[_Spot]] = {}
    users: dict[_Spot, list[_Spot]] = {}
    for start, end in links:
        needs.setdefault(end, []).append(start)
        users.setdefault(start, []).append(end)
    middle = _stacked(columns)
    for near, order in [(users, sorted(columns, reverse=True)), (needs, sorted(columns))] * _ROUNDS:
        for column in order:
            columns[column].sort(key=lambda spot: fmean(middle[other] for other in near.get(spot, [spot])))
            middle = _stacked(columns)
    return middle


def _stacked(columns: Mapping[int, Sequence[_Spot]]) -> dict[_Spot, int]:
    """Middles of spots in the order of their columns, each column centred."""
    heights = {
        column: sum(spot.height + _GAP_Y for spot in spots) - _GAP_Y for column, spots in columns.items()
    }
    middle = {}
    for column, spots in columns.items():
        y = (max(heights.values()) - heights[column]) // 2
        for spot in spots:
            middle[spot] = y + spot.height // 2
            y += spot.height + _GAP_Y
    return middle


def _edges(needs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """(need, name) pairs, without those that follow from others: the longer way is shown anyway."""
    for name, before in needs.items():
        for need in before:
            if not any(need in _before(other, needs) for other in before):
                yield need, name


def _before(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    return {earlier for need in needs[name] for earlier in (need, *_before(need, needs))}


def _line(start: _Spot, end: _Spot, middle: Mapping[_Spot, int]) -> Markup:
    x1, y1, x2, y2 = start.x + _BOX[0], middle[start], end.x, middle[end]
    bend = (x1 + x2) // 2
    return Markup('<path d="M{} {} C{} {} {} {} {} {}"/>').format(x1, y1, bend, y1, bend, y2, x2, y2)


def _through(lane: _Spot, middle: Mapping[_Spot, int]) -> Markup:
    return Markup('<path d="M{} {} h{}"/>').format(lane.x, middle[lane], _BOX[0])


def _box(name: str, note: str, spot: _Spot, middle: Mapping[_Spot, int]) -> Markup:
    x, y = spot.x, middle[spot] - _BOX[1] // 2
    stage, _, rest = name.partition(".")
    below = ", ".join(filter(None, (rest, note)))
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="6"/><text x="{}" y="{}">{}</text>'
        '<text class="soft" x="{}" y="{}">{}</text>'
    ).format(x, y, *_BOX, x + 10, y + 19, stage, x + 10, y + 36, below)
