"""Generation: one trajectory holds every shorter one; samples are 8-bit images."""

import pytest
import torch

from atjem.energies import energy
from atjem.sampling import quantize, sample, sample_at

MODES = pytest.mark.parametrize("mode", ["joint", "marginal"])


@MODES
@pytest.mark.parametrize("at", [[0, 1, 3], [4], (2, 1, 2), {5, 0}], ids=["list", "one", "unordered", "set"])
def test_candidates_equal_separate_runs_bit_for_bit(mode, at, make_model, make_images, make_labels):
    model, seeds, labels = make_model(), make_images(), make_labels()
    candidates = sample_at(model, seeds, labels, step_size=0.2, at=at, mode=mode)
    assert list(candidates) == sorted(set(at))
    for num_steps, images in candidates.items():
        alone = sample(model, seeds, labels, step_size=0.2, num_steps=num_steps, mode=mode)
        assert torch.equal(images, alone)


@MODES
def test_sampling_lowers_the_energy(mode, make_model, make_images, make_labels):
    model, seeds, labels = make_model(), make_images(), make_labels()
    images = sample(model, seeds, labels, step_size=0.2, num_steps=5, mode=mode)
    y = labels if mode == "joint" else None
    assert (energy(model, images, y) < energy(model, seeds, y)).all()
    assert 0 <= images.min() <= images.max() <= 1
    assert images.shape == seeds.shape
    assert not images.requires_grad


def test_labels_matter_in_joint_mode_alone(make_model, make_images, make_labels):
    model, seeds, labels = make_model(), make_images(), make_labels()
    others = (labels + 1) % 4
    for mode, same in (("joint", False), ("marginal", True)):
        first, second = (
            sample(model, seeds, y, step_size=0.2, num_steps=2, mode=mode) for y in (labels, others)
        )
        assert torch.equal(first, second) is same


def test_step_has_the_length_asked_for(make_linear):
    seeds = torch.full((2, 1, 2, 2), 0.5)
    images = sample(
        make_linear(torch.eye(4)), seeds, torch.tensor([0, 3]), step_size=0.1, num_steps=3, mode="joint"
    )
    expected = torch.tensor([[0.8, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.8]]).view(2, 1, 2, 2)
    torch.testing.assert_close(images, expected)


def test_unknown_mode_says_what_is_allowed(make_model, make_images, make_labels):
    with pytest.raises(ValueError, match="mode='class' is unknown; use 'joint' or 'marginal'"):
        sample(make_model(), make_images(), make_labels(), step_size=0.2, num_steps=1, mode="class")


def test_quantize_rounds_to_the_nearest_and_clips():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize(values.float() / 255), values)
    levels = torch.tensor([0.4, 0.6, 99.49, 99.51, 254.4, 254.6, 300.0, -3.0]) / 255
    before = levels.clone()
    assert quantize(levels).dtype == torch.uint8
    assert quantize(levels).tolist() == [0, 1, 99, 100, 254, 255, 255, 0]
    assert torch.equal(levels, before)
