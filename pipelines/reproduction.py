"""A run beside the one that it is to reproduce: figures, data, and what differs around them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isclose
from typing import Any

_OF_THE_MACHINE = ("seconds", "_per_second")  # ends of names of figures that no protocol fixes
_NAMED = 6  # libraries of other versions that are named


@dataclass(frozen=True)
class Figure:
    """`verdict`: equal, within (the tolerance), differs, missing or new."""

    then: float | None
    now: float | None
    verdict: str


@dataclass(frozen=True)
class Reproduction:
    """`data`: splits whose images are not those of the run then. `circumstances`: what else was different."""

    tolerance: float
    figures: Mapping[str, Figure]
    data: Sequence[str] = ()
    circumstances: Sequence[str] = field(default=())

    @property
    def reproduced(self) -> bool:
        return bool(self.figures) and not self.data and not self._of("differs", "missing", "new")

    @property
    def verdict(self) -> str:
        """One line."""
        if self.data:
            return f"not reproduced: other images in {', '.join(self.data)}"
        if not self.figures:
            return "not reproduced: the run then has no figures"
        equal, within = len(self._of("equal")), len(self._of("within"))
        if self.reproduced:
            close = f", {within} within {self.tolerance:g}" if within else ""
            return f"reproduced: of {len(self.figures)} figures {equal} are equal to the last bit{close}"
        apart = self._of("differs", "missing", "new")
        listed = ", ".join(apart[:_NAMED]) + (f" and {len(apart) - _NAMED} more" if apart[_NAMED:] else "")
        return f"not reproduced within {self.tolerance:g}: {listed}"

    def as_object(self) -> dict[str, Any]:
        """As `--json` gives it."""
        own = {name: asdict(figure) for name, figure in self.figures.items()}
        return {
            "reproduced": self.reproduced,
            "verdict": self.verdict,
            "tolerance": self.tolerance,
            "figures": own,
            "other_data": list(self.data),
            "circumstances": list(self.circumstances),
        }

    def _of(self, *verdicts: str) -> list[str]:
        return [name for name, figure in self.figures.items() if figure.verdict in verdicts]


def judged(then: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> dict[str, Figure]:
    """Every figure of both runs but for times. tolerance: relative, of figures near zero absolute."""
    names = [name for name in dict.fromkeys((*then, *now)) if not name.endswith(_OF_THE_MACHINE)]
    return {name: _judge(then.get(name), now.get(name), tolerance) for name in names}


def _judge(then: float | None, now: float | None, tolerance: float) -> Figure:
    if then is None or now is None:
        return Figure(then, now, "new" if then is None else "missing")
    close = isclose(then, now, rel_tol=tolerance, abs_tol=tolerance)
    return Figure(then, now, "equal" if then == now else "within" if close else "differs")


def other_circumstances(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What a run's record says of its machine and libraries, where today's differ."""
    for key, what in (("atjem.python", "Python"), ("atjem.machine", "machine")):
        if then.get(key) != now.get(key):
            yield f"{what} {then.get(key)} then, {now.get(key)} now"
    old, new = then["libraries"], now["libraries"]
    other = [name for name in sorted(old) if old[name] != new.get(name)]
    shown = [f"{name} {old[name]} then, {new.get(name, 'none')} now" for name in other[:_NAMED]]
    yield from shown
    if other[_NAMED:]:
        yield f"{len(other) - _NAMED} more libraries of other versions; record.json lists those then"
