"""The interval of a paired difference, against its formula by cells and its own coverage."""

from math import sqrt

import numpy as np
import pytest

from pipelines.paired import paired_difference


def test_interval_is_agresti_and_mins():
    # Of 60 images 20 right in both, 9 in the first alone, 4 in the second alone, 27 in neither.
    first, second = "1" * 20 + "1" * 9 + "0" * 4 + "0" * 27, "1" * 20 + "0" * 9 + "1" * 4 + "0" * 27
    found = paired_difference([first], [second])
    gained, lost, num = 9.5, 4.5, 62
    middle = (gained - lost) / num
    half = 1.96 * sqrt(gained + lost - (gained - lost) ** 2 / num) / num
    assert (found.difference, found.num) == (pytest.approx(5 / 60), 60)
    assert (found.low, found.high) == (pytest.approx(middle - half), pytest.approx(middle + half))


def test_runs_of_a_column_are_averaged_image_by_image():
    found = paired_difference(["11", "10"], ["01", "00"])
    assert found.difference == pytest.approx((1.0 + 0.0) / 2)


def test_agreeing_on_every_image_is_not_being_sure():
    found = paired_difference(["1" * 50], ["1" * 50])
    assert found.difference == 0
    assert found.low < 0 < found.high


def test_it_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    cells = rng.multinomial(200, [0.5, 0.08, 0.05, 0.37], size=2000)  # both, first alone, second alone, none
    covered = 0
    for both, first, second, neither in cells:
        found = paired_difference(
            ["1" * both + "1" * first + "0" * second + "0" * neither],
            ["1" * both + "0" * first + "1" * second + "0" * neither],
        )
        covered += found.low <= 0.03 <= found.high
    assert covered / len(cells) == pytest.approx(0.95, abs=0.015)
