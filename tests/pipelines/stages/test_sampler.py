"""What a sample depends on, and which start images are used."""

import numpy as np
import pytest
import torch

from atjem.sampling import sample
from data.images import open_images
from data.sources.noise import NoiseImages
from pipelines.stages.inputs import as_float, load_network
from pipelines.stages.sampler import Sampler, Seeds
from tests.support.stages import make_context

CPU = torch.device("cpu")


def test_a_sample_does_not_depend_on_its_neighbours(inputs):
    network = load_network(inputs["model"], CPU)
    seeds = as_float(NoiseImages("noise-smooth", 1, 1, 8).get(range(40)), CPU)
    labels = torch.arange(20) % 10
    together = [sample(network, part, labels, step_size=0.2, num_steps=6) for part in seeds.split(20)]
    mixed = torch.cat([seeds[:1], seeds[21:]])
    assert torch.equal(sample(network, mixed, labels, step_size=0.2, num_steps=6)[0], together[0][0])


def test_one_trajectory_passes_through_what_fresh_runs_find(inputs, tmp_path):
    context = make_context(tmp_path, inputs)
    sampler = Sampler(context, load_network(inputs["model"], CPU), CPU)
    ((_, through),) = sampler.batches("selection", 20, (2, 4, 7), [0])
    for steps, images in through.items():
        ((_, alone),) = sampler.batches("selection", 20, (steps,), [0])
        assert torch.equal(alone[steps], images)


def test_micro_batch_size_does_not_matter_in_float64(inputs):
    network = load_network(inputs["model"], CPU).double()
    seeds = as_float(NoiseImages("noise-smooth", 1, 1, 8).get(range(24)), CPU).double()
    labels = torch.arange(24) % 10

    def made_by(size):
        parts = zip(seeds.split(size), labels.split(size), strict=True)
        return torch.cat([sample(network, x, y, step_size=0.2, num_steps=20) for x, y in parts])

    assert (made_by(24) - made_by(5)).abs().max() < 1e-9


def test_choice_is_made_on_other_seeds_than_the_figures(made):
    context, _ = made
    seeds = Sampler(context, torch.nn.Identity(), CPU).seeds
    final, selection = seeds.indices("final", 2000), seeds.indices("selection", 1000)
    assert len(set(final) & set(selection)) == 0
    assert len(set(final)) == 2000


@pytest.mark.parametrize(("num_seeds", "num_classes"), [(20, 10), (15, 10), (7, 3), (4, 6), (1, 5)])
def test_seeds_that_are_used_again_have_other_labels(made, monkeypatch, num_seeds, num_classes):
    seeds = Seeds(made[0], num_classes)
    monkeypatch.setattr(seeds, "order", lambda purpose: np.arange(num_seeds))
    num = num_seeds * num_classes
    pairs = {(seed, sample % num_classes) for sample, seed in enumerate(seeds.indices("final", num))}
    assert len(pairs) == num
    assert len(set(seeds.indices("final", num_seeds))) == num_seeds
    assert seeds.num_starts(num + 1, labelled=True) == num
    assert seeds.num_starts(num + 1, labelled=False) == num_seeds


def test_test_images_that_choose_start_no_samples(inputs, tmp_path):
    changes = ("sample.seeds=test", "sample.num_samples=2000", "sample.num_selection=500")
    seeds = Seeds(make_context(tmp_path, inputs, *changes), 10)
    final, selection = seeds.indices("final", 2000), seeds.indices("selection", 500)
    assert not set(final) & set(selection)
    assert len(set(final) | set(selection)) == 359


def test_seeds_of_real_images_are_test_images(inputs, tmp_path):
    context = make_context(tmp_path, inputs, "sample.seeds=test")
    ((seeds, _),) = Sampler(context, load_network(inputs["model"], CPU), CPU).batches("final", 20, (1,), [0])
    test, _ = open_images(inputs["data"] / "images", "test")
    known = {image.numpy().tobytes() for image in test.get(range(len(test)))}
    assert all(seed.numpy().tobytes() in known for seed in seeds)


def test_start_images_of_a_shard_follow_each_other(made, monkeypatch):
    """Each shard is fetched once, whether all of its images start a sample or few."""
    seeds = Seeds(made[0], 10)
    monkeypatch.setattr(seeds, "images", {"final": Shards(20, 100)})
    for num in (2000, 500):
        indices = seeds.indices("final", num, num + 40)
        shards = indices[:num] // 100
        assert len(set(indices[:num])) == num
        assert np.count_nonzero(np.diff(shards)) == len(set(shards)) - 1
        assert set(indices[num:]) < set(indices[:num])


class Shards:
    def __init__(self, num: int, each: int) -> None:
        self.shards = np.full(num, each)

    def __len__(self) -> int:
        return int(self.shards.sum())


def test_trajectory_is_that_of_the_first_samples(inputs, tmp_path):
    context = make_context(tmp_path, inputs)
    sampler = Sampler(context, load_network(inputs["model"], CPU), CPU)
    ((_, images),) = sampler.batches("final", 50, (3,), [0])
    *_, last = sampler.trajectory(5, 3)
    assert torch.equal(last, images[3][:5])
