"""How many trials a cluster has room for: refused in seconds, with the arithmetic."""

import pytest

from pipelines.settings import Settings
from sweeps.shape import check_shape, fitting
from tests.support.recipes import settings_of

MACHINE = {"CPU": 16.0, "GPU": 4.0}


def _settings(workers: int, cpus: int, gpus: float) -> Settings:
    sets = (f"num_workers={workers}", f"cpus_per_worker={cpus}", f"gpus_per_worker={gpus}")
    return settings_of("digits", *(f"compute.{text}" for text in sets))


@pytest.mark.parametrize(
    ("shape", "trials"),
    [((1, 1, 0), 16), ((2, 2, 0), 4), ((1, 1, 1), 4), ((2, 1, 1), 2), ((1, 1, 0.5), 8), ((8, 1, 1), 1)],
)
def test_trials_that_fit(shape, trials):
    assert fitting(_settings(*shape), MACHINE) == trials


@pytest.mark.parametrize(
    ("shape", "concurrent", "said"),
    [
        ((1, 1, 0), 16, ""),
        ((2, 2, 0), 5, "5 trials x 2 workers x 2 CPUs = 20 CPUs"),
        ((2, 1, 1), 3, "3 trials x 2 workers x 1 GPUs = 6 GPUs"),
        ((8, 1, 1), 1, "8 workers x 1 GPUs = 8 GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(shape, concurrent, said):
    problems = [str(problem) for problem in check_shape(_settings(*shape), MACHINE, concurrent, "it")]
    assert (said in "\n".join(problems)) if said else problems == []
    assert len(problems) == bool(said)
