"""Whether two accuracies on the same images differ by more than those images' chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Paired:
    """An accuracy less another's on the same `num` images, and its 95 % interval."""

    difference: float
    low: float
    high: float
    num: int

    def text(self) -> str:
        return f"{self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def paired_difference(own: Sequence[str], other: Sequence[str]) -> Paired:
    """own, other: the outcomes of each run, a digit an image, "1" where it is counted; all of one length.

    Runs of a column (seeds) are averaged image by image, so the interval is about images, not about seeds.
    Wald's interval of paired shares after half an image more in each of their four cells (Agresti and Min
    2005, Statistics in Medicine 24:729): without, runs that agree on every image would be sure of it.
    """
    differences = [
        fmean(map(int, mine)) - fmean(map(int, theirs))
        for mine, theirs in zip(zip(*own, strict=True), zip(*other, strict=True), strict=True)
    ]
    num = len(differences)
    mean = sum(differences) / (num + 2)
    variance = (sum(each**2 for each in differences) + 1) / (num + 2) - mean**2
    half = _NORMAL_95 * sqrt(variance / (num + 2))
    return Paired(fmean(differences), mean - half, mean + half, num)
