"""Model folders and checkpoints that do not fit the recipe."""

import pytest
import torch

from atjem.checkpoint import save_model
from atjem.models.registry import ModelSpec, build_model
from tests.pipelines.preflight.test_images import problems_of


@pytest.mark.parametrize(
    ("num_classes", "arch", "problems"),
    [(10, "wrn-10-1", 0), (7, "wrn-10-1", 1), (10, "wrn-16-1", 1)],
    ids=["fits", "classes", "arch"],
)
def test_model_folder_must_fit(tmp_path, num_classes, arch, problems):
    model = build_model(ModelSpec(arch, num_classes, 1, 8, (0.3,), (0.2,)))
    save_model(model, tmp_path)
    assert len(problems_of(f"model.checkpoint={tmp_path}")) == problems


def test_published_file_needs_a_known_normalisation(tmp_path):
    torch.save({}, tmp_path / "weights.pt")
    (problem,) = problems_of(f"model.checkpoint={tmp_path / 'weights.pt'}")
    assert problem.startswith("error: model.normalization: 'data'")
