"""How much of the time is progress when machines are taken away: formulas, and a simulation beside them."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Failing:
    """A job that any of its nodes ends.

    node_hours: mean time between losses of one node; pause: seconds that a checkpoint stops training; upload:
    seconds until it counts, meanwhile training goes on; restart: seconds from a loss to the next step;
    wait: mean seconds more until there is another machine (exponential).
    """

    num_nodes: int
    node_hours: float
    pause: float
    upload: float
    restart: float
    wait: float

    @property
    def mean_seconds(self) -> float:
        """Between two losses of the job."""
        return 3600 * self.node_hours / self.num_nodes


def young_interval(pause: float, mean: float) -> float:
    """Young (1974), first order: sqrt(2 C M)."""
    return math.sqrt(2 * pause * mean)


def daly_interval(pause: float, mean: float) -> float:
    """Daly (2006), higher order: also for pauses that are not small against the mean."""
    if pause >= 2 * mean:
        return mean
    ratio = pause / (2 * mean)
    return young_interval(pause, mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - pause


def expected_goodput(interval: float, pause: float, restart: float, mean: float) -> float:
    """Share of time that is progress, in closed form (Daly 2006): losses may hit restarts too."""
    return interval / (mean * math.exp(restart / mean) * math.expm1((interval + pause) / mean))


def simulate(job: Failing, interval: float, work: float, rng: np.random.Generator) -> float:
    """Share of time that is progress, of one run of `work` seconds of training.

    From loss to loss: checkpoints begin every `interval` of training and count once uploaded; what was not
    uploaded is done again. During a restart machines may be lost as well, and it begins anew.
    """
    clock = saved = 0.0
    cycle = interval + job.pause
    while True:
        alive = rng.exponential(job.mean_seconds)
        left = work - saved
        needed = left + job.pause * math.floor(left / interval)
        if needed <= alive:
            return work / (clock + needed)
        saved += interval * max(0, math.floor((alive - job.upload) / cycle))
        clock += alive + _down(job, rng)


def _down(job: Failing, rng: np.random.Generator) -> float:
    """Seconds until training goes on, in which further losses start the restart anew."""
    seconds = 0.0
    while True:
        needed = job.restart + rng.exponential(job.wait)
        alive = rng.exponential(job.mean_seconds)
        if needed <= alive:
            return seconds + needed
        seconds += alive


def mean_goodput(job: Failing, interval: float, work: float, runs: int, seed: int = 0) -> float:
    """Over simulated runs, of equal seeds for every interval, so that intervals are compared alike."""
    rates = [simulate(job, interval, work, np.random.default_rng([seed, run])) for run in range(runs)]
    return float(1 / np.mean([1 / rate for rate in rates]))  # of the time that all of them take together


def best_interval(job: Failing, work: float, runs: int, candidates: list[float]) -> tuple[float, float]:
    """(interval, goodput) of the best candidate."""
    return max(((each, mean_goodput(job, each, work, runs)) for each in candidates), key=lambda pair: pair[1])
