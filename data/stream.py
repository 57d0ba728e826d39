"""The order of training images: a function of (seed, epoch) alone, whatever the number of workers.

There is no state to save: batch number `step` is computed from `step`, so a resumed run continues with
the very next batch at no cost, and one worker or four see the same global batches.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

Batch = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
Made = TypeVar("Made")
WINDOW = 16  # shards that are shuffled together where they are read one after another


class Order:
    """Global batches of indices into a collection, shuffled anew each epoch; the last part batch is dropped.

    shards: None shuffles all images together. Where reading here and there is dear, their sizes
    (`Images.shards`): shards are shuffled, and then the images within each window of shards.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, shards: Batch | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch of {batch_size} images: must be at least 1")
        if num_images < batch_size:
            raise ValueError(f"a batch of {batch_size} images needs as many in the split, not {num_images}")
        self.num_images, self.batch_size, self.seed, self.shards = num_images, batch_size, seed, shards
        self.batches_per_epoch = num_images // batch_size
        self._latest = (
            -1,
            np.empty(0, dtype=np.int64),
        )  # an epoch and its order: one thing, for threads' sake

    def batch(self, step: int) -> Batch:
        """Indices of the global batch at `step`, (batch_size,)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        latest, permutation = self._latest
        if epoch != latest:
            permutation = self._shuffle(np.random.Generator(np.random.Philox(key=[self.seed, epoch])))
            self._latest = (epoch, permutation)
        return permutation[position * self.batch_size :][: self.batch_size].copy()

    def _shuffle(self, rng: np.random.Generator) -> Batch:
        if self.shards is None:
            return rng.permutation(self.num_images)
        ends = np.cumsum(self.shards)
        order = rng.permutation(len(self.shards))
        windows = [order[start : start + WINDOW] for start in range(0, len(order), WINDOW)]
        return np.concatenate(
            [
                rng.permutation(
                    np.concatenate([np.arange(ends[s] - self.shards[s], ends[s]) for s in window])
                )
                for window in windows
            ]
        )


def shares(batch_size: int, world_size: int, accumulate: int = 1) -> list[list[int]]:
    """Images of each rank in each micro-batch of a global batch: (accumulate, world_size).

    The micro-batches do not depend on the number of ranks. Shares of a micro-batch differ by at most one
    image, and so do the ranks' shares of the whole. Raises ValueError when a rank would have none.
    """
    if batch_size < world_size * accumulate:
        parts = f"{world_size} workers" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise ValueError(f"a global batch of {batch_size} has not an image for each of {parts}")
    table, first = [], 0  # the first rank that has one more
    for part in _even(batch_size, accumulate):
        one, more = divmod(part, world_size)
        table.append([one + ((rank - first) % world_size < more) for rank in range(world_size)])
        first += more
    return table


def rank_part(batch_size: int, rank: int, world_size: int, accumulate: int = 1) -> Batch:
    """Places in a global batch that belong to a rank, ordered by micro-batch (`shares`)."""
    sizes = np.array(shares(batch_size, world_size, accumulate)).ravel()
    ends = np.cumsum(sizes)
    own = range(rank, len(sizes), world_size)
    return np.concatenate([np.arange(ends[place] - sizes[place], ends[place]) for place in own])


def _even(total: int, parts: int) -> list[int]:
    one, more = divmod(total, parts)
    return [one + (part < more) for part in range(parts)]


class Ahead(Generic[Made]):
    """`make(step)`, called in threads for the next steps while the present one is used.

    make: a function of the step alone, so that it does not matter how far ahead it is; no step reaches `end`.
    """

    def __init__(self, make: Callable[[int], Made], end: int, depth: int = 2) -> None:
        self.make, self.end, self.depth = make, end, depth
        self._pool = ThreadPoolExecutor(depth)
        self._made: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        if not 0 <= step < self.end:
            raise ValueError(f"step {step} lies outside 0 to {self.end - 1}")
        for skipped in [number for number in self._made if number < step]:
            del self._made[skipped]
        for number in range(step, min(step + self.depth + 1, self.end)):
            if number not in self._made:
                self._made[number] = self._pool.submit(self.make, number)
        return self._made.pop(step).result()
