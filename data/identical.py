"""Identical contents under two labels, or on both sides of a split: mistakes that no metric forgives."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_MOST = 100  # groups that are named


class Contents:
    """Contents by the first bytes of their digests: 16 bytes an image, whatever the collection."""

    def __init__(self) -> None:
        self._digests: list[np.ndarray[Any, np.dtype[np.int64]]] = []

    def add(self, rows: pa.Table) -> None:
        """rows: of a manifest."""
        self._digests.append(np.array([_short(sha) for sha in rows["sha256"].to_pylist()], dtype=np.int64))

    def find(self, read_again: Callable[[], Iterable[pa.Table]]) -> tuple[list[dict[str, Any]], int]:
        """Groups of images with the same bytes but other classes or splits: sources, classes, splits.

        Returns the first of them, and how many there are.
        """
        digests = np.concatenate(self._digests) if self._digests else np.empty(0, dtype=np.int64)
        values, counts = np.unique(digests, return_counts=True)
        repeated = set(values[counts > 1].tolist())
        if not repeated:
            return [], 0
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for rows in read_again():
            for row in rows.select(["sha256", "source", "class_name", "split"]).to_pylist():
                if _short(row["sha256"]) in repeated:
                    groups[row["sha256"]].append(row)
        differing = [
            group for group in groups.values() if _differ(group, "class_name") or _differ(group, "split")
        ]
        named = [
            {
                "sources": [row["source"] for row in group],
                "classes": [row["class_name"] for row in group],
                "splits": [row["split"] for row in group],
            }
            for group in differing[:_MOST]
        ]
        return named, len(differing)


def told(group: Mapping[str, Sequence[str]]) -> str:
    """A group as a person reads it: each source with its class and split."""
    copies = zip(group["sources"], group["classes"], group["splits"], strict=True)
    named = ", ".join(f"{source} ({label or 'no class'}, {split})" for source, label, split in copies)
    return f"identical images: {named}"


def _short(sha256: str) -> int:
    return int(sha256[:15], 16)


def _differ(group: list[dict[str, Any]], name: str) -> bool:
    return len({row[name] for row in group}) > 1
