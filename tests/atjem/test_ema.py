"""The weight average: its decay, its buffers, its independence of the model in training."""

import pytest
import torch
from torch import nn

from atjem.ema import Ema, ema_decay


class Tiny(nn.Module):
    """One weight, one floating-point buffer, one counter."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("running", torch.tensor([value], dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value, count):
        with torch.no_grad():
            self.weight.fill_(value)
            self.running.fill_(-value)
            self.count.fill_(count)


@pytest.mark.parametrize(
    ("num_updates", "expected"),
    [
        (0, 0.1),
        (10, 11 / 20),
        (8989, 8990 / 8999),
        (8991, 0.999),
        (10**6, 0.999),
    ],
)
def test_decay_warms_up_to_its_limit(num_updates, expected):
    assert ema_decay(num_updates, 0.999) == pytest.approx(expected, rel=1e-12)


def test_average_by_hand():
    model = Tiny()
    ema = Ema(model, decay=0.999)
    model.set(1.0, count=1)
    ema.update(model)
    assert ema.module.weight.item() == 1.0  # the first update is a copy: the untrained weights leave no trace
    expected = 1.0
    for num_updates, value in enumerate([3.0, -2.0, 5.0], start=1):
        model.set(value, count=num_updates + 1)
        ema.update(model)
        decay = (1 + num_updates) / (10 + num_updates)
        expected = decay * expected + (1 - decay) * value
        assert (model.weight.item(), model.running.item()) == (value, -value)
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-12)
        assert ema.module.running.item() == pytest.approx(-expected, rel=1e-12)  # buffers are averaged
        assert ema.module.count.item() == num_updates + 1  # counters are copied


def test_a_limit_of_zero_copies():
    model = Tiny()
    ema = Ema(model, decay=0.0)
    for value in (1.0, 2.0, 3.0):
        model.set(value, count=1)
        ema.update(model)
        assert ema.module.weight.item() == value
