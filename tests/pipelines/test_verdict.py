"""Warnings about figures: none for the demo's, one for each thing that went wrong."""

import pytest

from pipelines.verdict import warnings

GOOD = {
    "clean_accuracy": 0.986,
    "stage1_clean_accuracy": 0.98,
    "ood_auroc": 0.99,
    "frechet_distance": 0.15,
    "stage1_frechet_distance": 3.5,
}


@pytest.mark.parametrize("metrics", [GOOD, {}, {"clean_accuracy": 0.1}], ids=["demo", "none", "alone"])
def test_nothing_to_say(metrics):
    assert list(warnings(metrics)) == []


FAILURES = {
    "accuracy": ({"clean_accuracy": 0.33}, "stage 2 lost accuracy (0.98 to 0.33)"),
    "energy": ({"ood_auroc": 0.52}, "does not tell images from seeds (ood_auroc 0.52)"),
    "samples": ({"frechet_distance": 3.5}, "hardly closer to the images than stage 1's"),
    "robustness": ({"robust_accuracy": 0.0}, "no image withstands AutoAttack"),
    "copies": ({"repeated_samples": 7.0}, "7 samples repeat others exactly"),
    "diverged": ({"diverged_at_step": 120.0}, "diverged by step 120"),
    "returned": ({"returned_at_step": 90.0}, "stage 2 diverged at step 90, went back once"),
    "returned 1": ({"stage1_returned_at_step": 90.0}, "stage 1 diverged at step 90, went back once"),
    "masked": ({"robust_accuracy": 0.9, "robust_gate": 0.0}, "robust_accuracy is not to be believed"),
}


@pytest.mark.parametrize(("changed", "text"), FAILURES.values(), ids=FAILURES)
def test_each_failure_is_told(changed, text):
    (warning,) = warnings(GOOD | changed)
    assert text in warning
