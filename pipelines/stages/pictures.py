"""Pictures of images: grids that people look at. Small images are enlarged by whole numbers."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from data.views import to_image

_ROWS, _COLUMNS = 4, 10
_MIN_CELL = 48  # pixels a side
_FRAME_MS, _LAST_MS = 80, 1500  # of a movie


def grid_places(num_samples: int, num_classes: int) -> list[list[int]]:
    """Which samples a grid shows, row by row, a column a class. Labels go 0, 1, ... K - 1, 0, ..."""
    columns = min(num_classes, num_samples, _COLUMNS)
    rows = min(_ROWS, max(1, num_samples // num_classes))
    return [[row * num_classes + column for column in range(columns)] for row in range(rows)]


def draw_grid(rows: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """In each pair of rows the seeds stand above the samples that grew from them: (N, C, H, W) uint8 each."""
    samples = rows[0][1]
    cell, gap = _cell(samples.shape[2])
    pair = 2 * cell + 3 * gap
    grid = Image.new("RGB", (len(samples) * (cell + gap) + gap, len(rows) * pair + gap), "white")
    for row, (above, below) in enumerate(rows):
        top = gap + row * pair
        for column in range(len(below)):
            left = gap + column * (cell + gap)
            _paste(grid, above[column], cell, left, top)
            _paste(grid, below[column], cell, left, top + cell + gap // 2)
    _save(grid, path)


def draw_frames(frames: list[Tensor], path: Path) -> None:
    """One row an image, one column a frame. frames: (N, C, H, W) uint8 each."""
    _save(_strip(frames), path)


def draw_movie(frames: list[Tensor], path: Path) -> None:
    """The images side by side, changing frame by frame for ever, the last frame held: a GIF."""
    pictures = [_strip(list(images.split(1))) for images in frames]
    durations = [_FRAME_MS] * (len(pictures) - 1) + [_LAST_MS]
    path.parent.mkdir(exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _strip(frames: list[Tensor]) -> Image.Image:
    num = len(frames[0])
    cell, gap = _cell(frames[0].shape[2])
    strip = Image.new("RGB", (len(frames) * (cell + gap) + gap, num * (cell + gap) + gap), "white")
    for column, images in enumerate(frames):
        for row in range(num):
            _paste(strip, images[row], cell, gap + column * (cell + gap), gap + row * (cell + gap))
    return strip


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
