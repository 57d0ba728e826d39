"""The classifier's metrics, and what each depends on."""

import pytest

from pipelines.stages import evaluate_classifier
from pipelines.stages.tensors import ENERGIES_FILE, read_tensors
from tests.support.stages import make_context


@pytest.mark.slow
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
