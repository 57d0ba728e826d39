"""The watchdog: each kind of trouble at its threshold, healthy steps, what an interruption brings back."""

import math

import pytest

from atjem.health import FEWEST_STEPS, Limits, Watchdog

LIMITS = Limits(max_energy_gap=100.0, max_input_gradient=50.0, pinned_steps=3)
HEALTHY = {
    "loss": 1.2,
    "energy_real": -1.0,
    "energy_contrast": 0.5,
    "input_gradient": 2.0,
    "auroc": 0.7,
    "energy_loss": 0.6,
}
SILENT = HEALTHY | {"auroc": 1.0, "energy_loss": 5e-4}


def watchdog(**changed):
    return Watchdog(**({"limits": LIMITS, "largest": 9} | changed))


WILD = {"energy_contrast": 1e6, "input_gradient": 1e6}


@pytest.mark.parametrize(
    ("changed", "num_steps", "largest"),
    [
        ({}, 9, 9),
        ({"energy_contrast": 99.0}, 9, 9),
        ({"input_gradient": 50.0}, 9, 9),
        (SILENT | {"auroc": 0.999}, 9, 9),
        (SILENT | {"energy_loss": 2e-3}, 9, 9),
        (SILENT, 8, 9),
        (SILENT | WILD, FEWEST_STEPS - 1, FEWEST_STEPS - 1),
    ],
    ids=["healthy", "gap-limit", "gradient-limit", "auroc", "energy-loss", "smaller-t", "too-few-steps"],
)
def test_what_is_no_trouble(changed, num_steps, largest):
    """The limits themselves; less than all signs of silence, or below the largest T; hardly moved images."""
    dog = watchdog(largest=largest)
    assert [dog.look(step, HEALTHY | changed, num_steps) for step in range(9)] == [None] * 9
    assert dog.calm


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [LIMITS, None], ids=["stage2", "stage1"])
def test_a_loss_that_is_no_number_counts_at_any_t(loss, limits):
    told = watchdog(limits=limits).look(12, HEALTHY | {"loss": loss}, num_steps=0)
    assert told == f"the loss is {loss} at step 12; lower optimizer.lr"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"energy_contrast": 99.1}, "100.1 nats lie between"),
        ({"energy_contrast": -101.1}, "100.1 nats lie between"),
        ({"energy_real": math.nan}, "nan nats lie between"),
        ({"input_gradient": 50.1}, "50.1 is the norm of the gradient"),
        ({"input_gradient": math.inf}, "inf is the norm of the gradient"),
    ],
)
def test_what_runs_away(changed, told):
    assert watchdog().look(7, HEALTHY | changed, num_steps=FEWEST_STEPS).startswith(told)
    assert watchdog(largest=None).look(7, HEALTHY | changed, num_steps=0).startswith(told)  # SGLD has no T


def test_nothing_to_learn_is_told_after_the_last_of_the_steps_in_a_row():
    dog = watchdog()
    assert [dog.look(step, SILENT, num_steps=9) for step in range(2)] == [None, None]
    assert not dog.calm
    assert dog.look(2, HEALTHY, num_steps=9) is None
    assert dog.calm
    told = [dog.look(step, SILENT, num_steps=9) for step in range(3, 6)]
    assert told[:2] == [None, None]
    assert told[2].startswith("AUROC has stood at 1 at the largest T=9 for 3 steps")


def test_the_steps_in_a_row_are_brought_back():
    first, second = watchdog(), watchdog()
    for step in range(2):
        first.look(step, SILENT, num_steps=9)
    second.load_state_dict(first.state_dict())
    assert second.look(2, SILENT, num_steps=9) is not None
