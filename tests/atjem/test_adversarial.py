"""Both stages' objectives: their losses by hand, what they watch, and that they are learned."""

import copy

import pytest
import torch

from atjem.adversarial import AdversarialTraining
from atjem.energies import energy
from atjem.losses import classifier_loss, energy_loss, r1_penalty
from atjem.sampling import sample
from atjem.scores import accuracy, auroc
from tests.support.learning import (
    adversarial_training,
    attacked,
    dual_training,
    gradients,
    make_batch,
    make_curriculum,
    make_learner,
    numbers,
    relative_difference,
)


def test_plain_training_sees_the_images_themselves():
    learner, batch = make_learner(AdversarialTraining(attack=None)), make_batch()
    by_hand = copy.deepcopy(learner.model).train()
    expected = classifier_loss(by_hand(batch.x), batch.y).mean()
    assert learner.step(batch)["loss"].item() == pytest.approx(expected.item())


def test_adversarial_training_watches_its_loss_and_accuracy():
    metrics = make_learner(adversarial_training()).step(make_batch())
    assert metrics.keys() == {"loss", "classifier_loss", "adversarial_accuracy"}


@pytest.mark.parametrize("r1_weight", [0.0, 0.25], ids=["without-r1", "with-r1"])
def test_dual_loss_by_hand(r1_weight):
    objective = dual_training(classifier_weight=0.5, energy_weight=2.0, r1_weight=r1_weight)
    learner = make_learner(objective, dtype=torch.float64, curriculum=make_curriculum(num_steps=3))
    model, batch = copy.deepcopy(learner.model).eval(), make_batch(dtype=torch.float64)
    own = torch.arange(8), batch.y_real
    x_contrast = sample(model, batch.x_seed, batch.y_real, step_size=0.2, num_steps=3)
    x_before = sample(model, batch.x_seed, batch.y_real, step_size=0.2, num_steps=2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(x_before)[own].sum(), x_before)
    logits_adv, logits_real, logits_contrast = (
        model(x) for x in (attacked(model, batch.x, batch.y), batch.x_real, x_contrast)
    )
    clf = classifier_loss(logits_adv, batch.y).mean().item()
    bce = energy_loss(logits_real, logits_contrast).mean().item()
    r1 = r1_penalty(model, batch.x_real).mean().item()
    expected = {
        "classifier_loss": clf,
        "energy_loss": bce,
        "loss": 0.5 * clf + 2.0 * bce + r1_weight * r1,
        "adversarial_accuracy": accuracy(logits_adv, batch.y).item(),
        "energy_real": energy(model, batch.x_real).mean().item(),
        "energy_contrast": energy(model, x_contrast).mean().item(),
        "energy_seed": energy(model, batch.x_seed).mean().item(),
        "auroc": auroc(logits_real[own], logits_contrast[own]).item(),
        "contrastive_steps": 3.0,
        "input_gradient": gradient.flatten(1).norm(dim=1).mean().item(),
    } | ({"r1": r1} if r1_weight else {})
    assert numbers(learner.step(batch)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("mode", "num_steps"), [("joint", 3), ("marginal", 3), ("joint", 0)])
def test_contrastive_images_are_samples_of_the_mode(mode, num_steps):
    """At zero steps they are the start images."""
    learner = make_learner(dual_training(mode=mode), curriculum=make_curriculum(num_steps))
    model, batch = copy.deepcopy(learner.model).eval(), make_batch()
    x_contrast = sample(model, batch.x_seed, batch.y_real, step_size=0.2, num_steps=num_steps, mode=mode)
    expected = energy(model, x_contrast).mean().item()
    assert learner.step(batch)["energy_contrast"].item() == pytest.approx(expected, rel=1e-5)


def test_r1_weight_adds_the_penaltys_gradient():
    plain, penalised = (
        make_learner(dual_training(r1_weight=weight), dtype=torch.float64, curriculum=make_curriculum())
        for weight in (0.0, 0.7)
    )
    model, batch = copy.deepcopy(plain.model).eval(), make_batch(dtype=torch.float64)
    penalty = r1_penalty(model, batch.x_real).mean()
    parts = torch.autograd.grad(0.7 * penalty, list(model.parameters()), materialize_grads=True)
    plain.step(batch)
    penalised.step(batch)
    difference = gradients(penalised.model) - gradients(plain.model)
    assert difference.norm() > 0
    assert relative_difference(difference, torch.cat([part.flatten() for part in parts])) < 1e-8


def test_real_images_get_lower_energy_than_start_images():
    learner = make_learner(dual_training(), curriculum=make_curriculum(num_steps=0))
    first, *_, last = [learner.step(make_batch()) for _ in range(16)]
    assert last["energy_loss"] < 0.8 * first["energy_loss"]
    assert last["energy_real"] < last["energy_contrast"]
    assert last["auroc"] > first["auroc"]


def test_classifier_learns_its_attacked_images():
    learner, batch = make_learner(adversarial_training()), make_batch()
    losses = [learner.step(batch)["loss"].item() for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]
