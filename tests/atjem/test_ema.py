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
        (1, 2 / 11),
        (10, 11 / 20),
        (90, 91 / 100),
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
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-12)
        assert ema.module.running.item() == pytest.approx(-expected, rel=1e-12)  # buffers are averaged
        assert ema.module.count.item() == num_updates + 1  # counters are copied


def test_decay_limit_is_the_one_given():
    model = Tiny()
    ema = Ema(model, decay=0.0)
    for value in (1.0, 2.0, 3.0):
        model.set(value, count=1)
        ema.update(model)
        assert ema.module.weight.item() == value


def test_model_in_training_is_untouched():
    model = Tiny()
    ema = Ema(model, decay=0.999)
    for value in (1.0, 2.0):
        model.set(value, count=3)
        ema.update(model)
        assert (model.weight.item(), model.running.item(), model.count.item()) == (value, -value, 3)


def test_running_statistics_of_a_network_are_averaged(make_model):
    model = make_model()
    ema = Ema(model, decay=0.999)
    ema.update(model)
    before = {name: buffer.clone() for name, buffer in ema.module.named_buffers()}
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(1.0)
        if name.endswith("num_batches_tracked"):
            buffer.add_(5)
    ema.update(model)
    for name, buffer in ema.module.named_buffers():
        if name.endswith("running_mean"):
            torch.testing.assert_close(buffer, before[name] + 9 / 11)
        elif name.endswith("num_batches_tracked"):
            assert buffer == 5
        else:
            assert torch.equal(buffer, before[name])
