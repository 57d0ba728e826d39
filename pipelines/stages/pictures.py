"""Pictures of images: grids that people look at. Small images are enlarged by whole numbers."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from data.views import to_image

_ROWS, _COLUMNS = 4, 10
_MIN_CELL = 48  # pixels a side


def draw_grid(seeds: Tensor, samples: Tensor, num_classes: int, path: Path) -> None:
    """One column a class; in each pair of rows the seed stands above the sample that grew from it.

    seeds, samples: (N, C, H, W) uint8, whose labels go 0, 1, ... num_classes - 1, 0, ...
    """
    columns, rows = min(num_classes, _COLUMNS), min(_ROWS, max(1, len(samples) // num_classes))
    columns = min(columns, len(samples))
    cell, gap = _cell(samples.shape[2])
    pair = 2 * cell + 3 * gap
    grid = Image.new("RGB", (columns * (cell + gap) + gap, rows * pair + gap), "white")
    for row in range(rows):
        for column in range(columns):
            index, left, top = row * num_classes + column, gap + column * (cell + gap), gap + row * pair
            _paste(grid, seeds[index], cell, left, top)
            _paste(grid, samples[index], cell, left, top + cell + gap // 2)
    _save(grid, path)


def draw_frames(frames: list[Tensor], path: Path) -> None:
    """One row an image, one column a frame. frames: (N, C, H, W) uint8 each."""
    num = len(frames[0])
    cell, gap = _cell(frames[0].shape[2])
    strip = Image.new("RGB", (len(frames) * (cell + gap) + gap, num * (cell + gap) + gap), "white")
    for column, images in enumerate(frames):
        for row in range(num):
            _paste(strip, images[row], cell, gap + column * (cell + gap), gap + row * (cell + gap))
    _save(strip, path)


def _cell(image_size: int) -> tuple[int, int]:
    """Side of an image in a picture and the gap between two."""
    scale = max(1, -(-_MIN_CELL // image_size))
    return image_size * scale, max(2, scale)


def _paste(picture: Image.Image, pixels: Tensor, cell: int, left: int, top: int) -> None:
    enlarged = to_image(pixels).resize((cell, cell), Image.Resampling.NEAREST)
    picture.paste(enlarged.convert("RGB"), (left, top))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
