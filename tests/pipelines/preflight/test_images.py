"""What preflight finds in folders and weights, without a process of its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.preflight.settings import check_settings
from tests.support.recipes import settings_of

SMALL = ("stage1.batch_size=8", "stage2.batch_size=8")


@pytest.fixture
def images(tmp_path) -> Path:
    """Forty images in two classes, with splits."""
    rng = np.random.default_rng(0)
    for index in range(80):
        split, name = "test" if index % 2 else "train", "cat" if index % 4 < 2 else "dog"
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


def problems_of(*overrides: str) -> list[str]:
    return [str(problem) for problem in check_settings(settings_of("digits", *SMALL, *overrides))]


def test_sound_folder_has_no_problem(images):
    assert problems_of(f"data.in={images}") == []


@pytest.mark.parametrize("seeds", ["", "/train", "/.."], ids=["the-same", "inside", "around"])
def test_images_to_learn_are_no_seeds(images, seeds):
    (problem,) = problems_of(f"data.in={images}", f"data.ood={images}{seeds}")
    assert "the images to learn are no seeds" in problem


def test_class_without_training_images_is_named(images):
    (images / "test" / "dog").rename(images / "test" / "Dog")
    assert any("Dog only among its test images" in problem for problem in problems_of(f"data.in={images}"))
