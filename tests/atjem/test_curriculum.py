"""The curriculum over T: when it grows, and that its window restarts."""

import json

import pytest

from atjem.curriculum import Curriculum, window_length


def growth(curriculum, aurocs):
    """T after each step's AUROC."""
    steps = []
    for auroc in aurocs:
        curriculum.update(auroc)
        steps.append(curriculum.num_steps)
    return steps


@pytest.mark.parametrize(
    ("window_images", "global_batch", "expected"),
    [(1000, 128, 8), (1000, 512, 2), (1000, 1000, 1), (1000, 4096, 1), (192, 64, 3), (193, 64, 4)],
    ids=["cifar", "imagenet", "exact", "one-batch", "digits", "rounds-up"],
)
def test_window_length_rounds_up(window_images, global_batch, expected):
    assert window_length(window_images, global_batch) == expected


@pytest.mark.parametrize(
    ("settings", "aurocs", "expected"),
    [
        # Means of the last two: -, .625, .625, .75 grows; -, 1 grows to the maximum; then it stays.
        ((0, 2, 0.75, 2), [1, 0.25, 1, 0.5, 1, 1, 0.5, 1, 1, 1], [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]),
        ((0, 10, 0.5, 3), [1] * 9, [0, 0, 1, 1, 1, 2, 2, 2, 3]),
        ((0, 10, 0.75, 3), [0, 0, 0.5, 0.75, 1], [0, 0, 0, 0, 1]),
        ((0, 10, 0.75, 1), [0.74, 0.75], [0, 1]),
        ((7, 5, 0.5, 1), [1, 1, 1], [7, 7, 7]),
    ],
    ids=["by-hand", "window-restarts", "window-slides", "threshold-itself", "above-its-maximum"],
)
def test_growth(settings, aurocs, expected):
    assert growth(Curriculum(*settings), aurocs) == expected


@pytest.mark.parametrize(("threshold", "window"), [(0.8, 8), (0.8, 10), (0.7, 3), (0.1, 6)])
def test_a_mean_that_is_exactly_the_threshold_reaches_it(threshold, window):
    assert growth(Curriculum(0, 9, threshold, window), [threshold] * window)[-1] == 1


def test_state_round_trip_in_the_middle_of_a_window():
    aurocs = [0.9, 0.4, 0.8, 0.9, 0.9, 0.3, 1.0]
    whole, first = (Curriculum(num_steps=1, max_steps=9, threshold=0.7, window=3) for _ in range(2))
    growth(whole, aurocs)
    growth(first, aurocs[:4])
    second = Curriculum(num_steps=0, max_steps=9, threshold=0.7, window=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    growth(second, aurocs[4:])
    assert second == whole


def test_state_is_a_copy():
    curriculum, other = (Curriculum(num_steps=0, max_steps=9, threshold=0.7, window=3) for _ in range(2))
    curriculum.update(0.5)
    state = curriculum.state_dict()
    other.load_state_dict(state)
    curriculum.update(0.25)
    other.update(1.0)
    assert state["recent"] == [0.5]
