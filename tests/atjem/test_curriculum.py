"""The curriculum over T: when it grows, and that its window restarts."""

import json

import pytest

from atjem.curriculum import Curriculum, window_length


@pytest.mark.parametrize(
    ("window_images", "global_batch", "expected"),
    [(1000, 128, 8), (1000, 512, 2), (1000, 1000, 1), (1000, 4096, 1), (192, 64, 3), (193, 64, 4)],
    ids=["cifar", "imagenet", "exact", "one-batch", "digits", "rounds-up"],
)
def test_window_length_rounds_up(window_images, global_batch, expected):
    assert window_length(window_images, global_batch) == expected


def test_growth_by_hand():
    curriculum = Curriculum(num_steps=0, max_steps=2, threshold=0.75, window=2)
    aurocs = [1.0, 0.25, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    # Means of the last two: -, .625, .625, .75 grows; -, 1 grows to the maximum; then it stays.
    steps = []
    for auroc in aurocs:
        curriculum.update(auroc)
        steps.append(curriculum.num_steps)
    assert steps == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]


def test_window_restarts_at_each_new_value():
    curriculum = Curriculum(num_steps=0, max_steps=10, threshold=0.5, window=3)
    steps = []
    for _ in range(9):
        curriculum.update(1.0)
        steps.append(curriculum.num_steps)
    assert steps == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_window_slides_while_below_the_threshold():
    curriculum = Curriculum(num_steps=0, max_steps=10, threshold=0.75, window=3)
    for auroc in (0.0, 0.0, 0.5, 0.75, 1.0):
        curriculum.update(auroc)
    assert curriculum.num_steps == 1


@pytest.mark.parametrize(("auroc", "expected"), [(0.75, 1), (0.74, 0)], ids=["reaches", "below"])
def test_threshold_is_reached_when_equal(auroc, expected):
    curriculum = Curriculum(num_steps=0, max_steps=10, threshold=0.75, window=1)
    curriculum.update(auroc)
    assert curriculum.num_steps == expected


@pytest.mark.parametrize("start", [5, 7], ids=["at-maximum", "above"])
def test_does_not_pass_its_maximum(start):
    curriculum = Curriculum(num_steps=start, max_steps=5, threshold=0.5, window=1)
    for _ in range(3):
        curriculum.update(1.0)
    assert curriculum.num_steps == start


def test_state_round_trip_in_the_middle_of_a_window():
    aurocs = [0.9, 0.4, 0.8, 0.9, 0.9, 0.3, 1.0]
    whole = Curriculum(num_steps=1, max_steps=9, threshold=0.7, window=3)
    first = Curriculum(num_steps=1, max_steps=9, threshold=0.7, window=3)
    for auroc in aurocs:
        whole.update(auroc)
    for auroc in aurocs[:4]:
        first.update(auroc)
    second = Curriculum(num_steps=0, max_steps=9, threshold=0.7, window=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for auroc in aurocs[4:]:
        second.update(auroc)
    assert second == whole


def test_state_is_a_copy():
    curriculum = Curriculum(num_steps=0, max_steps=9, threshold=0.7, window=3)
    curriculum.update(0.5)
    state = curriculum.state_dict()
    curriculum.update(0.25)
    assert state["recent"] == [0.5]
    other = Curriculum(num_steps=0, max_steps=9, threshold=0.7, window=3)
    other.load_state_dict(state)
    other.update(1.0)
    assert state["recent"] == [0.5]


@pytest.mark.parametrize(("threshold", "window"), [(0.8, 8), (0.8, 10), (0.7, 3), (0.1, 6)])
def test_a_mean_that_is_exactly_the_threshold_reaches_it(threshold, window):
    curriculum = Curriculum(0, 9, threshold, window)
    for _ in range(window):
        curriculum.update(threshold)
    assert curriculum.num_steps == 1
