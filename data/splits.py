"""Which images are trained with and which are held out, and in which order they lie in the shards."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data.sources.base import Source

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def split_items(
    source: Source, *, names: tuple[str, str], seed: int, test_fraction: float, evenly: bool
) -> dict[str, Indices]:
    """Indices of each split's items in a seeded order: a shard read in sequence does not go class by class.

    evenly: the first of each class, then the second of each, and so on, so that the first N cover all alike.
    """
    own = np.array(_assign(source, names, seed, test_fraction))
    labels = source.labels
    splits = {}
    for split in names:
        members = np.flatnonzero(own == split)
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        shuffled = members[rng.permutation(len(members))]
        splits[split] = shuffled[_evenly([labels[index] for index in shuffled])] if evenly else shuffled
    return splits


def _assign(source: Source, names: tuple[str, str], seed: int, test_fraction: float) -> list[str]:
    """The item's own split, or a seeded one that takes `test_fraction` of each class (at least one image)."""
    first, second = names
    if any(source.splits):
        own = {"train": first, "test": second}
        return [own.get(split or "", first) for split in source.splits]
    splits = [first] * len(source.items)
    by_class: dict[str | None, list[int]] = {}
    for index, label in enumerate(source.labels):
        by_class.setdefault(label, []).append(index)
    for number, label in enumerate(sorted(by_class, key=str)):
        members = by_class[label]
        rng = np.random.Generator(np.random.Philox(key=[seed, number]))
        for index in rng.choice(members, size=num_held_out(len(members), test_fraction), replace=False):
            splits[index] = second
    return splits


def num_held_out(num: int, test_fraction: float) -> int:
    """Of a class of `num` images: at least one, and at least one stays to train with."""
    return max(0, min(num - 1, max(1, round(test_fraction * num))))


def _evenly(labels: Sequence[str | None]) -> list[int]:
    seen: Counter[str | None] = Counter()
    ranks = []
    for label in labels:
        ranks.append(seen[label])
        seen[label] += 1
    return sorted(range(len(labels)), key=ranks.__getitem__)
