"""Fidelity, counterfactuals, reference in one process: figures, what they depend on, what is absent."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from atjem.checkpoint import load, save_model
from atjem.fidelity import Features, Reference, fidelity_metrics
from atjem.statistics_file import read_statistics, unusable_reference, write_statistics
from data.images import open_images
from pipelines.stages import counterfactuals, evaluate_classifier, evaluate_fidelity, reference_stats, sample
from pipelines.stages.reference import FEATURES_FILE, read_kept, read_protocol, read_reference
from pipelines.stages.tensors import ENERGIES_FILE, read_tensors
from tests.support.stages import make_context, make_inputs

COUNTERFACTUALS = "evaluate_classifier.counterfactuals"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory, inputs):
    context = make_context(tmp_path_factory.mktemp("samples"), inputs)
    facts = sample.run(context)
    (context.folder / "manifest.json").write_text(json.dumps(facts))
    return context.folder


@pytest.fixture(scope="module")
def changed(tmp_path_factory, inputs):
    context = make_context(tmp_path_factory.mktemp("changed"), inputs, node=COUNTERFACTUALS)
    return context, counterfactuals.run(context)


def fidelity(tmp_path, samples, reference):
    own = {"samples": samples, "reference": reference}
    return evaluate_fidelity.run(make_context(tmp_path, own, node="evaluate_fidelity"))


def test_fidelity_is_that_of_the_stored_features(tmp_path, inputs, samples):
    facts = fidelity(tmp_path, samples, inputs["reference"])
    files = sorted(samples.glob("samples-*.safetensors"))
    features = Features.of(read_tensors(files, "pooled", "logits"))
    kept = read_kept(inputs["reference"])
    assert kept is not None
    expected = fidelity_metrics(features, Reference.of(kept[0]))
    assert facts["metrics"] == pytest.approx(expected, rel=1e-6)
    assert facts["protocols"].keys() == facts["metrics"].keys()


def test_each_metric_depends_on_its_own_things(tmp_path, inputs, samples):
    protocols = fidelity(tmp_path, samples, inputs["reference"])["protocols"]
    for name in ("extractor", "extractor.weights_sha256", "num_samples", "sampler.step_size", "quantisation"):
        assert all(name in protocol for protocol in protocols.values()), name
    assert "reference.sha256" in protocols["frechet_distance"]
    assert "reference.sha256" not in protocols["class_score"]
    assert "kid_subsets" in protocols["kernel_distance"]
    assert "kid_subsets" not in protocols["frechet_distance"]
    assert "prc_neighbours" in protocols["feature_recall"]
    assert "isc_splits" in protocols["class_score"]
    assert "isc_splits" not in protocols["kernel_distance"]


def test_imported_statistics_leave_out_what_needs_features(tmp_path, inputs, samples):
    """A reference without features, as imported mu and sigma make it."""
    reference = tmp_path / "reference"
    shutil.copytree(inputs["reference"], reference)
    (reference / FEATURES_FILE).unlink()
    facts = fidelity(tmp_path / "fidelity", samples, reference)
    assert facts["metrics"].keys() == {"frechet_distance", "class_score", "class_score_std"}
    for name in ("kernel_distance", "feature_precision", "feature_recall"):
        assert facts["absent"][name] == "the reference is imported mu and sigma"
    context = make_context(tmp_path / "cf", {**inputs, "reference": reference}, node=COUNTERFACTUALS)
    absent = counterfactuals.run(context)["absent"]
    assert "imported mu and sigma" in absent["counterfactual_frechet_distance"]


def test_reference_is_made_of_all_training_images(inputs):
    images, labels = open_images(inputs["data"] / "images", "train")
    features, kept_labels = read_kept(inputs["reference"]) or pytest.fail("no features")
    assert torch.equal(kept_labels, labels)
    statistics = read_reference(inputs["reference"]).statistics
    assert statistics.mu == pytest.approx(features.pooled.mean(0).numpy(), abs=1e-6)
    assert statistics.sigma == pytest.approx(np.cov(features.pooled.numpy(), rowvar=False), abs=1e-6)
    protocol = read_protocol(inputs["reference"])
    assert protocol["reference.num_images"] == len(images)
    assert protocol["extractor.resize"] == "none"


def test_kept_features_are_a_seeded_choice(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(reference_stats, "_KEPT_IMAGES", 100)
    context = make_context(tmp_path, {"data": inputs["data"]}, node="reference_stats")
    reference_stats.run(context)
    whole, all_labels = read_kept(inputs["reference"]) or pytest.fail("no features")
    some, labels = read_kept(context.folder) or pytest.fail("no features")
    assert len(labels) == 100
    places = [int((whole.pooled - row).abs().sum(1).argmin()) for row in some.pooled]
    assert places == sorted(places)
    assert labels.tolist() == all_labels[places].tolist()
    protocols = [read_protocol(folder) for folder in (inputs["reference"], context.folder)]
    keys = ("reference.features_num", "reference.features_sha256")
    assert all(protocols[0][key] != protocols[1][key] for key in keys)
    statistics = read_reference(context.folder).statistics
    assert np.array_equal(statistics.mu, read_reference(inputs["reference"]).statistics.mu)


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
    assert not (chosen.targets == labels[chosen.indices]).any()
    counts = torch.bincount(chosen.targets, minlength=10)
    assert counts.min() >= 20
    few = make_context(tmp_path / "few", inputs, node=COUNTERFACTUALS)
    assert len(counterfactuals._choose(few, 10).targets.unique()) == 2  # 70 images: 30 or more to each


def test_killed_counterfactuals_go_on(changed, inputs, tmp_path):
    context, facts = changed
    other = make_context(tmp_path, inputs, node=COUNTERFACTUALS)
    shutil.copytree(context.checkpoints, other.checkpoints)
    files = sorted(other.checkpoints.rglob("*.safetensors"))
    assert len(files) == 6
    files[0].unlink()
    files[1].write_bytes(b"half")
    kept = files[2].stat().st_mtime_ns
    assert counterfactuals.run(other)["counterfactuals"] == facts["counterfactuals"]
    assert files[2].stat().st_mtime_ns == kept


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
    model = load(inputs["model"])
    with torch.no_grad():
        model.backbone.fc.weight.sign_().mul_(3e38)  # finite, and no logit is
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model")
    context = make_context(tmp_path, {**inputs, "model": tmp_path / "model"}, node=COUNTERFACTUALS)
    with pytest.raises(ValueError, match="it has diverged, and has no"):
        counterfactuals.run(context)


def test_classifier_figures_all_say_what_they_depend_on(inputs, tmp_path):
    changes = ("evaluate.robust.attack=pgd", "evaluate.robust.num_images=40", "evaluate.robust.pgd_steps=2")
    context = make_context(tmp_path, inputs, *changes, node="evaluate_classifier")
    facts = evaluate_classifier.run(context)
    assert facts["protocols"].keys() >= facts["metrics"].keys()
    assert facts["protocols"]["pgd_accuracy"]["attack.eps"] == 0.75
    assert facts["protocols"]["pgd_accuracy"]["subset.num"] == 40
    assert "attack.eps" not in facts["protocols"]["clean_accuracy"]
    for name in ("ood_auroc", "energy_ood"):
        assert "ood.num" in facts["protocols"][name]
        assert "ood.attack" not in facts["protocols"][name]
    assert "ood.attack" in facts["protocols"]["ood_auroc_adversarial"]
    assert "ood.num" not in facts["protocols"]["energy_real"]
    energies = read_tensors([context.folder / ENERGIES_FILE], "real", "ood", "ood_adversarial")
    for name, energy in energies.items():
        assert facts["metrics"][f"energy_{name}"] == pytest.approx(energy.double().mean().item())
    assert energies["ood_adversarial"].mean() < energies["ood"].mean()
    assert [p["step"] for p in facts["points"]] == [375, 750, 1500, 4000]


def test_statistics_file_has_the_published_layout(tmp_path, inputs):
    statistics = read_reference(inputs["reference"]).statistics
    write_statistics(statistics, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["mu"].dtype == stored["sigma"].dtype == np.float64
    again, told = read_statistics(tmp_path / "a.npz")
    assert told == "torch-fidelity"
    assert np.array_equal(again.sigma, statistics.sigma)


def npz(path, num=2048, **arrays):
    np.savez(path, **({"mu": np.zeros(num), "sigma": np.eye(num)} | arrays))
    return path


@pytest.mark.parametrize(
    ("arrays", "declared", "reason"),
    [
        ({}, None, "does not say what made it"),
        ({}, "torch-fidelity", ""),
        ({"implementation": np.array("torch-fidelity")}, None, ""),
        ({"implementation": np.array("torch-fidelity")}, "pytorch-fid", "says pytorch-fid"),
        ({}, "pytorch-fid", "pytorch-fid made it"),
        ({"mu_s": np.zeros(3)}, None, "guided-diffusion made it"),
        ({"mu_s": np.zeros(3)}, "torch-fidelity", "guided-diffusion made it, and"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, "torch-fidelity", "has 64 features"),
        ({"sigma": np.eye(7)}, "torch-fidelity", "they must be (D,) and (D, D)"),
        ({"mu": np.full(2048, np.nan)}, "torch-fidelity", "not finite"),
        ({"sigma": np.triu(np.ones((2048, 2048)))}, "torch-fidelity", "not symmetric"),
        ({"sigma": np.diag([-5.0] + [1.0] * 2047)}, "torch-fidelity", "variances below zero"),
        ({"sigma": np.ones((2048, 2048))}, "torch-fidelity", ""),  # of rank one: rounding may go below zero
        ({"mu": np.zeros(2048, complex)}, "torch-fidelity", "they must be real numbers"),
    ],
)
def test_reference_of_another_implementation_is_refused(tmp_path, arrays, declared, reason):
    told = unusable_reference(npz(tmp_path / "a.npz", **arrays), declared)
    assert (reason in told) if reason else told == ""


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is not an .npz file"), (b"PK\x03\x04 half a zip", "is not an .npz file")]
)
def test_reference_that_is_no_npz(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content)
    assert reason in unusable_reference(tmp_path / "a.npz", None)
    np.savez(tmp_path / "b.npz", arr_0=np.zeros(3))
    assert "holds arr_0, not mu and sigma" in unusable_reference(tmp_path / "b.npz", None)
    np.savez(tmp_path / "c.npz", mu=np.array([{}]), sigma=np.eye(1))
    assert unusable_reference(tmp_path / "c.npz", None)


def test_damaged_reference_is_told_in_a_line(tmp_path):
    """Wherever a byte is lost or changed, also within what is compressed."""
    np.savez_compressed(tmp_path / "whole.npz", mu=np.arange(64.0), sigma=np.diag(np.arange(64.0)))
    whole = (tmp_path / "whole.npz").read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "a.npz").write_bytes(damaged if place % 2 else whole[:place])
        assert isinstance(unusable_reference(tmp_path / "a.npz", "torch-fidelity"), str)
