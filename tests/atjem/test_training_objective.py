"""Batches in parts."""

from dataclasses import replace

import torch

from atjem.training_objective import Batch
from tests.support.learning import make_batch


def test_micro_batches_hold_the_batch_in_order_and_draw_other_noise():
    batch = replace(make_batch(size=6), seed=7)
    parts = list(batch.split([[5, 2], [5, 3], [4, 1]], rank=1))
    assert [(len(part.x), part.sizes) for part in parts] == [(2, [5, 2]), (3, [5, 3]), (1, [4, 1])]
    assert len({part.seed for part in parts}) == 3
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)


def test_micro_batches_of_a_batch_without_energy_images():
    batch = make_batch()
    parts = list(Batch(batch.x, batch.y).split([[4], [4]], rank=0))
    assert [len(part.x) for part in parts] == [4, 4]
    assert all(part.x_real is part.y_real is part.x_seed is part.seed is None for part in parts)
