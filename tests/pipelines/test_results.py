"""What a run prints for programs, and the metrics that it promises."""

from pathlib import Path

import pytest

from pipelines.graph import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CONTRACT_METRICS = {
    "clean_accuracy",
    "robust_accuracy",
    "pgd_accuracy",
    "ece",
    "ood_auroc",
    "samples_per_second",
    "frechet_distance",
    "kernel_distance",
    "feature_precision",
    "feature_recall",
    "class_score",
    "counterfactual_confidence",
    "counterfactual_flip_rate",
    "energy_real",
}


def test_json_is_the_only_thing_on_stdout(demo):
    assert len(demo.result.out.strip().splitlines()) == 1
    result = demo.result.json
    assert (result["pipeline"], result["status"]) == ("digits", "done")
    assert [stage["name"] for stage in result["stages"]] == list(STAGES)
    assert {stage["status"] for stage in result["stages"]} == {"ran"}
    for stage in result["stages"]:
        assert set(stage) == {"name", "status", "reason", "fingerprint", "run_id", "seconds", "artifact"}
        assert Path(stage["artifact"], "manifest.json").is_file()


def test_metrics_of_the_contract(demo):
    metrics = demo.result.json["metrics"]
    assert metrics.keys() >= CONTRACT_METRICS
    assert metrics.keys() >= {f"stage1_{name}" for name in CONTRACT_METRICS}
    assert metrics.keys() >= {"plain_robust_accuracy", "train_test_frechet_distance"}
    assert not metrics.keys() & {"fid", "is_mean", "kid_mean", "precision", "recall"}
    for name in ("clean_accuracy", "robust_accuracy", "pgd_accuracy", "ood_auroc", "feature_precision"):
        assert 0 <= metrics[name] <= 1
    assert metrics["robust_accuracy"] <= metrics["pgd_accuracy"] <= 1
    assert metrics["num_train_images"] + metrics["num_test_images"] == 1797
