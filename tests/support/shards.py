"""WebDataset shards as other people write them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from data.decode import encode_png
from data.shards import Dataset, Encoded, write_manifest, write_split
from data.views import to_image
from tests.support.data_files import picture, write_tar


def write_known_shards(
    folder: Path, pixels: Mapping[str, np.ndarray], labels: Mapping[str, list[int]]
) -> None:
    """Shards of four images. pixels: (N, C, S, S) of each split; a label of -1 means none."""
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, object]] = []
    for split, images in pixels.items():
        encoded = [
            Encoded(
                f"{split}-{n:08d}",
                encode_png(to_image(image)),
                y,
                ["a", "b", "c", ""][y],
                split,
                *image.shape[1:],
                f"{n}.png",
            )
            for n, (image, y) in enumerate(zip(torch.from_numpy(images), labels[split], strict=True))
        ]
        rows += write_split(folder, split, encoded, 4)
    counts = {split: len(images) for split, images in pixels.items()}
    channels, side = next(iter(pixels.values())).shape[1:3]
    Dataset(channels, side, ["a", "b", "c"], counts=counts, sha256=write_manifest(folder, rows)).write(folder)


def make_shards(folder: Path, label=lambda n: {"cls": str(n % 3).encode()}, prefix: str = "shard") -> Path:
    for shard in range(3):
        members = {}
        for n in range(shard * 8, shard * 8 + 8):
            members[f"im_{n:04d}.png"] = picture(n, (24, 20))
            members |= {f"im_{n:04d}.{kind}": content for kind, content in label(n).items()}
        write_tar(folder / f"{prefix}-{shard:06d}.tar", members)
    return folder
