"""The sampling stage in one process: its metrics, artifact and pictures."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from atjem.checkpoint import load
from atjem.energies import energy
from atjem.fidelity import extract
from atjem.sampling import quantize, sample
from data.check import find_damage
from data.images import ShardImages, open_images
from pipelines.stages import sample as stage
from pipelines.stages.inputs import as_float, load_network
from pipelines.stages.reference import open_extractor
from pipelines.stages.sampler import Sampler
from pipelines.stages.tensors import read_tensors
from tests.support.stages import diverged_model, make_context

CPU = torch.device("cpu")


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
    description = json.loads((context.folder / "dataset.json").read_text())
    assert description["counts"] == {"samples": 50}
    assert len(description["classes"]) == 10


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


def test_few_seeds_make_no_copies_until_labels_run_out(inputs, tmp_path):
    """The test images, less those kept for choosing: five passes over them, and every sample is another."""
    changes = ("sample.seeds=test", "sample.num_samples=1500", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes, "sample.frames=0")
    facts = stage.run(context)
    assert facts["metrics"]["sample_seeds"] == facts["sampler"]["sampler.num_seeds"] == 359 - 30
    assert "repeated_samples" not in facts["metrics"]
    assert len({image.numpy().tobytes() for image in pixels(context)}) == 1500


def test_copies_are_counted_and_no_frames_drawn_on_request(inputs, tmp_path):
    changes = ("sample.seeds=test", "sample.num_samples=400", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes, "sample.mode=marginal", "sample.frames=0")
    assert stage.run(context)["metrics"]["repeated_samples"] == 400 - 329
    assert not (context.folder / stage.MOVIE_FILE).exists()


@pytest.mark.parametrize(
    ("change", "labels"),
    [("sample.mode=marginal", [-1] * 10), ("sample.seeds=test", list(range(10)))],
)
def test_modes(made, inputs, tmp_path, change, labels):
    context = make_context(tmp_path, inputs, change, "sample.num_samples=10")
    facts = stage.run(context)
    assert list(find_damage(context.folder)) == []
    images, told = open_images(context.folder, "samples")
    assert told.tolist() == labels
    assert not torch.equal(images.get(range(10)), pixels(made[0])[:10])
    assert facts["sampler"] != made[1]["sampler"]


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


def test_diverged_model_gives_no_samples(inputs, tmp_path):
    context = make_context(tmp_path, diverged_model(inputs, tmp_path / "model"))
    with pytest.raises(ValueError, match="the model has diverged"):
        stage.run(context)
    assert not (context.folder / "manifest.parquet").exists()
