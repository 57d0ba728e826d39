"""More images than one process prepares, and settings under which they fill several shards."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.build import SMALL

SETTINGS = {
    "data.ood": "noise-smooth",
    "data.image_size": 64,
    "data.encoding": "webp",
    "data.shard_mb": 0.2,
    "data.test_fraction": 0.2,
    "model.channels": 3,
}


def write_many_images(folder: Path) -> Path:
    """Two class folders of smooth random images."""
    rng = np.random.default_rng(0)
    for number in range(SMALL + 200):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((80, 70)).save(path)
    return folder


def overrides() -> list[str]:
    return [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
