"""`at`, `dat` and `jem`, the objectives of one interface, each learn scikit-learn's digits in a few steps."""

import pytest
import torch
from sklearn.datasets import load_digits

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.attacks import attack
from atjem.balls import L2
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.energies import energy
from atjem.jem import JointEnergyTraining, ReplayBuffer, Sgld
from atjem.learner import Learner
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.scores import accuracy
from atjem.training_objective import Batch

SIZE, STEPS = 64, 120
ATTACK = ClassifierAttack(L2(0.5), step_size=0.2, num_steps=3)


def objective(name):
    if name == "at":
        return AdversarialTraining(ATTACK, freezes_norm=True)
    if name == "dat":
        return DualAdversarialTraining(ATTACK, contrastive_step_size=0.3)
    noise = torch.Generator().manual_seed(0)
    buffer = ReplayBuffer.of_noise(500, (1, 8, 8), 0.05, noise)
    return JointEnergyTraining(Sgld(10, 0.25, 0.005), buffer, input_noise=0.015, energy_weight=0.1)


@pytest.fixture(scope="module")
def digits():
    """Training and test images (N, 1, 8, 8) with labels, every fifth for the test."""
    loaded = load_digits()
    x, y = torch.tensor(loaded.images / 16).float().unsqueeze(1), torch.tensor(loaded.target).long()
    held_out = torch.arange(len(x)) % 5 == 0
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


def seeds(num, generator):
    noise = torch.rand(num, 1, 2, 2, generator=generator)
    return torch.nn.functional.interpolate(noise, size=8, mode="bilinear")


def train(name, x, y):
    torch.manual_seed(0)
    model = build_model(ModelSpec("wrn-10-1", 10, 1, 8, (0.3,), (0.38,)))
    settings = {"name": "adamw", "lr": 1e-3} if name == "jem" else {"name": "sgd", "lr": 0.05}
    rule = make_optimizer(model.parameters(), **settings, momentum=0.9, weight_decay=5e-4, betas=(0.9, 0.95))
    schedule = make_schedule(rule, schedule="constant", warmup_steps=10, total_steps=STEPS)
    curriculum = Curriculum(3, 8, threshold=0.7, window=3) if name == "dat" else None
    learner = Learner(model, objective(name), rule, schedule, Ema(model, 0.9), curriculum, clip_norm=1.0)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        one, two = (torch.randint(len(x), (SIZE,), generator=generator) for _ in range(2))
        metrics = learner.step(Batch(x[one], y[one], x[two], y[two], seeds(SIZE, generator), seed=step))
    return learner.ema.module.eval(), metrics


@pytest.mark.parametrize("name", ["dat", "at", "jem"])
def test_learns_digits(name, digits):
    x, y, x_test, y_test = digits
    model, metrics = train(name, x, y)
    assert all(value.isfinite() for value in metrics.values())
    assert accuracy(model(x_test), y_test) > 0.85
    if name != "jem":
        assert accuracy(model(attack(model, x_test, y_test, eps=0.5)), y_test) > 0.5
    if name != "at":
        away = seeds(len(x_test), torch.Generator().manual_seed(2))
        assert energy(model, x_test).median() < energy(model, away).median()
