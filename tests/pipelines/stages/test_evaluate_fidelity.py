"""Fidelity metrics, what each depends on, and what is absent."""

import shutil

import pytest

from atjem.fidelity import Features, Reference, fidelity_metrics
from pipelines.stages import counterfactuals, evaluate_fidelity
from pipelines.stages.reference import FEATURES_FILE, read_kept
from pipelines.stages.tensors import read_tensors
from tests.support.stages import make_context


@pytest.fixture
def samples(made):
    return made[0].folder


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
    own, node = {**inputs, "reference": reference}, "evaluate_classifier.counterfactuals"
    context = make_context(tmp_path / "cf", own, node=node)
    absent = counterfactuals.run(context)["absent"]
    assert "imported mu and sigma" in absent["counterfactual_frechet_distance"]
