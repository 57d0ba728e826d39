"""Sampling in one process: what a sample depends on, what is written, what a killed stage keeps."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from atjem.checkpoint import load, save_model
from atjem.energies import energy
from atjem.fidelity import extract
from atjem.sampling import quantize, sample
from data.check import find_damage
from data.images import ShardImages, open_images
from data.sources.noise import NoiseImages
from pipelines.stages import sample as stage
from pipelines.stages.inputs import as_float, load_network
from pipelines.stages.reference import open_extractor
from pipelines.stages.sample_parts import Makers, parts_of
from pipelines.stages.sampler import Sampler, Seeds
from pipelines.stages.tensors import read_tensors
from tests.support.stages import make_context, make_inputs, one_thread

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, inputs):
    """A finished stage: its context and its facts."""
    context = make_context(tmp_path_factory.mktemp("made"), inputs)
    return context, stage.run(context)


def pixels(context):
    images = ShardImages(context.folder, "samples")
    return images.get(range(len(images)))


def test_facts(made):
    _, facts = made
    curve = {point["step"]: point["selection_frechet_distance"] for point in facts["points"]}
    assert curve.keys() == {2, 4}
    assert facts["metrics"]["sample_steps"] == min(curve, key=curve.__getitem__)
    assert facts["metrics"]["sample_seeds"] == 50
    assert facts["metrics"]["samples_per_second"] > 0
    assert facts["protocols"].keys() == facts["metrics"].keys()
    assert facts["sampler"]["sampler.steps"] == [2, 4]


def test_artifact_is_sound_shards_with_balanced_labels(made):
    context, _ = made
    assert list(find_damage(context.folder)) == []
    images, labels = open_images(context.folder, "samples")
    assert labels.tolist() == [index % 10 for index in range(50)]
    assert images.get([0]).shape == (1, 1, 8, 8)


def test_features_and_energies_are_those_of_the_stored_pixels(made, inputs):
    context, facts = made
    stored = read_tensors(sorted(context.folder.glob("samples-*.safetensors")), "pooled", "logits", "energy")
    images = pixels(context)
    again = extract(open_extractor(inputs["reference"], None), images.split(20))
    assert torch.allclose(stored["pooled"].double(), again.pooled, atol=1e-5)
    assert torch.allclose(stored["logits"].double(), again.logits, atol=1e-5)
    energies = energy(load(inputs["model"]), as_float(images, CPU))
    assert torch.allclose(stored["energy"], energies, atol=1e-4)
    assert facts["metrics"]["sample_energy"] == pytest.approx(energies.mean().item(), rel=1e-4)


def test_a_sample_is_the_public_functions_sample(made, inputs):
    """On the plain model, NCHW and unfolded: the same function, so the same images but for rounding."""
    context, facts = made
    seeds = Sampler(context, load_network(inputs["model"], CPU), CPU).seeds
    start = seeds.images["final"].get(seeds.indices("final", 60))
    steps, labels = facts["metrics"]["sample_steps"], torch.arange(60) % 10
    images = sample(load(inputs["model"]), as_float(start, CPU), labels, step_size=0.2, num_steps=steps)
    difference = (quantize(images)[:50].int() - pixels(context).int()).abs()
    assert (difference > 1).float().mean() < 0.001


@pytest.mark.parametrize("num_samples", [21, 39, 400])
def test_samples_do_not_depend_on_how_many_there_are(made, inputs, tmp_path, num_samples):
    """Nor, so, on the parts that they are made in: 400 fill twenty batches, 21 leave one nearly empty."""
    context, facts = made
    steps = facts["metrics"]["sample_steps"]
    changes = (f"sample.num_samples={num_samples}", "sample.step_candidates=[]", f"sample.steps={steps}")
    other = make_context(tmp_path, inputs, *changes)
    stage.run(other)
    num = min(50, num_samples)
    assert torch.equal(pixels(other)[:num], pixels(context)[:num])


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


def test_few_seeds_make_no_copies_until_labels_run_out(inputs, tmp_path):
    """The test images, less those kept for choosing: five passes over them, and every sample is another."""
    changes = ("sample.seeds=test", "sample.num_samples=1500", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes, "sample.frames=0")
    facts = stage.run(context)
    assert facts["metrics"]["sample_seeds"] == facts["sampler"]["sampler.num_seeds"] == 359 - 30
    assert "repeated_samples" not in facts["metrics"]
    assert len({image.numpy().tobytes() for image in pixels(context)}) == 1500


def test_copies_are_counted(inputs, tmp_path):
    changes = ("sample.seeds=test", "sample.num_samples=400", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes, "sample.mode=marginal", "sample.frames=0")
    assert stage.run(context)["metrics"]["repeated_samples"] == 400 - 329


def test_test_images_that_choose_start_no_samples(inputs, tmp_path):
    changes = ("sample.seeds=test", "sample.num_samples=2000", "sample.num_selection=500")
    seeds = Seeds(make_context(tmp_path, inputs, *changes), 10)
    final, selection = seeds.indices("final", 2000), seeds.indices("selection", 500)
    assert not set(final) & set(selection)
    assert len(set(final) | set(selection)) == 359


@pytest.mark.parametrize("lost", ["shard", "rows", "shortened shard"])
def test_part_whose_shard_is_lost_or_shortened_is_missing(inputs, tmp_path, lost):
    changes = ("sample.num_samples=600", "sample.step_candidates=[]", "sample.steps=1")
    parts = Makers(make_context(tmp_path, inputs, *changes)).make("final", 1)
    assert parts.missing() == []
    if lost == "shortened shard":
        parts.shard(1).write_bytes(parts.shard(1).read_bytes()[:1000])
    else:
        (parts.rows(1) if lost == "rows" else parts.shard(1)).unlink()
    assert parts.missing() == [1]


def test_part_that_was_cut_short_is_made_again_and_the_others_are_kept(inputs, tmp_path):
    changes = ("sample.num_samples=1100", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes)
    parts = Makers(context).make("final", 1)
    assert len(parts) == 3
    whole = {file.name: file.read_bytes() for file in parts.folder.iterdir()}
    kept = parts.tensors(0).stat().st_mtime_ns
    parts.tensors(1).write_bytes(b"half a part")
    parts.tensors(2).unlink()
    parts.shard(2).write_bytes(b"half a shard")
    assert parts.missing() == [1, 2]
    Makers(context).make("final", 1)
    assert parts.tensors(0).stat().st_mtime_ns == kept
    again = {file.name: file.read_bytes() for file in parts.folder.iterdir()}
    assert again.keys() == whole.keys()
    for name in whole:  # an artifact made again is the same: seconds differ, and do not go into it
        assert again[name] == whole[name] or name.endswith(".seconds.json")
    for number in range(3):
        stored = load_file(parts.tensors(number))
        assert len(stored["pooled"]) == (500, 500, 100)[number]


def test_finished_parts_stay_until_the_artifact_is_published(made):
    context, _ = made
    parts = parts_of(context, "final")
    assert parts.missing() == []
    assert parts.shard(0).samefile(context.folder / "samples-00000.tar")


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ("sample.mode=marginal", [-1] * 10),
        ("sample.seeds=test", list(range(10))),
    ],
)
def test_modes(made, inputs, tmp_path, change, labels):
    context = make_context(tmp_path, inputs, change, "sample.num_samples=10")
    facts = stage.run(context)
    assert list(find_damage(context.folder)) == []
    images, told = open_images(context.folder, "samples")
    assert told.tolist() == labels
    assert not torch.equal(images.get(range(10)), pixels(made[0])[:10])
    assert facts["sampler"] != made[1]["sampler"]


def test_seeds_of_real_images_are_test_images(inputs, tmp_path):
    context = make_context(tmp_path, inputs, "sample.seeds=test")
    ((seeds, _),) = Sampler(context, load_network(inputs["model"], CPU), CPU).batches("final", 20, (1,), [0])
    test, _ = open_images(inputs["data"] / "images", "test")
    known = {image.numpy().tobytes() for image in test.get(range(len(test)))}
    assert all(seed.numpy().tobytes() in known for seed in seeds)


def test_pictures(made):
    context, facts = made
    with Image.open(context.folder / stage.MOVIE_FILE) as movie:
        assert movie.n_frames == facts["metrics"]["sample_steps"] + 1
        frames = []
        for frame in range(movie.n_frames):
            movie.seek(frame)
            frames.append(np.array(movie.convert("L")))
    assert all((a != b).any() for a, b in pairwise(frames))
    assert (context.folder / stage.GRID_FILE).is_file()
    assert (context.folder / stage.TRAJECTORY_FILE).is_file()


def test_no_frames_on_request(inputs, tmp_path):
    context = make_context(tmp_path, inputs, "sample.frames=0", "sample.num_samples=10")
    stage.run(context)
    assert not (context.folder / stage.MOVIE_FILE).exists()


def test_diverged_model_gives_no_samples(inputs, tmp_path):
    model = load(inputs["model"])
    with torch.no_grad():
        model.backbone.fc.weight.sign_().mul_(3e38)  # finite, and no logit is
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model")
    context = make_context(tmp_path, {**inputs, "model": tmp_path / "model"})
    with pytest.raises(ValueError, match="the model has diverged"):
        stage.run(context)
    assert not (context.folder / "manifest.parquet").exists()


def test_dataset_description(made):
    context, _ = made
    told = json.loads((context.folder / "dataset.json").read_text())
    assert told["counts"] == {"samples": 50}
    assert len(told["classes"]) == 10
