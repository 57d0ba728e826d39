"""The order of training images: a function of (seed, epoch) alone, whatever the number of workers.

There is no state to save: batch number `step` is computed from `step`, so a resumed run continues with
the very next batch at no cost, and one worker or four see the same global batches.
"""

from typing import Any

import numpy as np

Batch = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]


class Order:
    """Global batches of indices into a collection: a full shuffle each epoch, the last part batch dropped."""

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        if num_images < batch_size:
            raise ValueError(f"a batch of {batch_size} images needs as many in the split, not {num_images}")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.batches_per_epoch = num_images // batch_size
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Batch:
        """Indices of the global batch at `step`, (batch_size,)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch, self._permutation = epoch, rng.permutation(self.num_images)
        return self._permutation[position * self.batch_size :][: self.batch_size]


def rank_slice(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of a global batch that belongs to a rank. Raises ValueError when it cannot be even."""
    if batch_size % world_size:
        raise ValueError(f"a global batch of {batch_size} cannot be split evenly over {world_size} workers")
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)
