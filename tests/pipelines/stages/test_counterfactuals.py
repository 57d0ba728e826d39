"""Counterfactuals: metrics by budget, targets, and the panel of pictures."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from data.images import open_images
from pipelines.stages import counterfactuals
from tests.support.stages import diverged_model, make_context

COUNTERFACTUALS = "evaluate_classifier.counterfactuals"


@pytest.fixture(scope="module")
def changed(tmp_path_factory, inputs):
    context = make_context(tmp_path_factory.mktemp("changed"), inputs, node=COUNTERFACTUALS)
    return context, counterfactuals.run(context)


def test_counterfactuals_go_further_with_a_larger_budget(changed):
    _, facts = changed
    rows = facts["counterfactuals"]
    assert [row["eps"] for row in rows] == [1.0, 2.0, 4.0]
    for small, large in pairwise(rows):
        assert small["l2"] < large["l2"]
        assert small["confidence"] < large["confidence"]
        assert small["flip_rate"] <= large["flip_rate"]
    for row in rows:
        assert 0.5 * row["eps"] * 4 / 25 < row["l2"] <= row["eps"] * 4 / 25 + 8 / 510  # 4 steps of eps / 25
    middle = {f"counterfactual_{name}": value for name, value in rows[1].items() if name != "eps"}
    assert facts["metrics"] == middle
    assert facts["protocols"].keys() >= facts["metrics"].keys()


def test_targets_are_other_classes_in_turn(inputs, tmp_path):
    context = make_context(tmp_path, inputs, "evaluate.counterfactual.num_images=300", node=COUNTERFACTUALS)
    chosen = counterfactuals._choose(context, 10)
    _, labels = open_images(inputs["data"] / "images", "test")
    assert not (chosen.targets == labels[chosen.indices].numpy()).any()
    counts = np.bincount(chosen.targets, minlength=10)
    assert counts.min() >= 20
    few = make_context(tmp_path / "few", inputs, node=COUNTERFACTUALS)
    assert len(np.unique(counterfactuals._choose(few, 10).targets)) == 2  # 70 images: 30 or more to each


def test_panel_shows_originals_counterfactuals_and_differences(changed):
    context, _ = changed
    with Image.open(context.folder / counterfactuals.PANEL_FILE) as panel:
        width, height = panel.size
        cell = (width - 6) // 5 - 6
        assert height == 8 * (cell + 6) + 6
        pixels = np.array(panel.convert("L"))[6 : 6 + cell]
    original, difference = pixels[:, 6 : 6 + cell], pixels[:, 4 * (cell + 6) + 6 :][:, :cell]
    assert original.min() == 0
    assert 100 < np.median(difference) < 155  # grey where nothing was changed


def test_diverged_model_has_no_counterfactuals(inputs, tmp_path):
    context = make_context(tmp_path, diverged_model(inputs, tmp_path / "model"), node=COUNTERFACTUALS)
    with pytest.raises(ValueError, match="it has diverged, and has no"):
        counterfactuals.run(context)
