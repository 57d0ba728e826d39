"""JEM: Langevin steps by hand, the replay buffer, the loss, what an interruption brings back."""

import pytest
import torch

from atjem.ema import Ema
from atjem.energies import energy
from atjem.jem import JointEnergyTraining, Normal, ReplayBuffer, Sgld
from atjem.learner import Learner
from atjem.optim import make_optimizer, make_schedule
from atjem.ranks import Ranks
from atjem.training_objective import Batch, Networks
from tests.support.learning import assert_same_state

SHAPE = (1, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(num: int, seed: int = 0) -> Normal:
    return Normal(generator(seed), Ranks(0, 1), [num])


def noise(num: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(num, *SHAPE, generator=generator(seed))


def batch(seed: int = 5) -> Batch:
    return Batch(noise(4, seed=1), torch.arange(4) % 3, seed=seed)


def objective(**changed: float) -> JointEnergyTraining:
    settings = {"input_noise": 0.0, "energy_weight": 1.0} | changed
    buffer = ReplayBuffer.of_noise(16, SHAPE, 0.05, generator(2))
    return JointEnergyTraining(Sgld(2, 0.25, 0.005), buffer, **settings)


def test_one_step_without_noise_is_gradient_ascent_on_the_score(make_model):
    model, x = make_model(), noise(2)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(-energy(model, leaf).sum(), leaf)
    assert torch.allclose(Sgld(1, 0.25, 0.0)(model, x, normal(2))[0], x + 0.25 * gradient)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_noise_has_the_stated_size_and_is_a_function_of_the_seed(make_model):
    model, x = make_model(), noise(64)
    still, gradient_norms = Sgld(1, 0.25, 0.0)(model, x, normal(64))
    noisy, again, other = (Sgld(1, 0.25, 0.1)(model, x, normal(64, seed))[0] for seed in (3, 3, 4))
    assert torch.allclose(0.25 * gradient_norms, (still - x).flatten(1).norm(dim=1), rtol=1e-4)
    assert (noisy - still).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)


@pytest.mark.parametrize("reinit", [0.0, 0.3, 1.0])
def test_a_share_of_the_starts_is_new(reinit):
    buffer = ReplayBuffer.of_noise(100, SHAPE, reinit, generator())
    starts, places = buffer.draw(4000, generator(1))
    new = (starts != buffer.images[places]).flatten(1).any(dim=1).float().mean().item()
    assert new == pytest.approx(reinit, abs=0.03)


def test_samples_go_back_to_their_places():
    buffer = ReplayBuffer.of_noise(10, SHAPE, 0.0, generator())
    expected = buffer.images.clone()
    expected[[3, 7]] = 9.0
    buffer.put(torch.tensor([3, 7]), torch.full((2, *SHAPE), 9.0))
    assert torch.equal(buffer.images, expected)


def test_loss_is_cross_entropy_and_the_energy_gap(make_model):
    model, own = make_model(), objective(energy_weight=0.5)
    terms = own.terms(Networks(model, model, model), batch(), 0)
    first, gap = terms.watched["classifier_loss"], terms.watched["energy_loss"]
    assert terms.loss.item() == pytest.approx((first + 0.5 * gap).item())
    real = energy(model, batch().x).mean()
    assert terms.watched["energy_real"].item() == pytest.approx(real.item(), rel=1e-5)
    assert gap.item() == pytest.approx((real - terms.watched["energy_contrast"]).item(), rel=1e-4)


def test_resumed_training_is_the_uninterrupted_one(make_model):
    """The buffer is part of what a checkpoint holds."""

    def learner() -> Learner:
        model = make_model()
        options = {"name": "adamw", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "betas": (0.9, 0.999)}
        optimizer = make_optimizer(model.parameters(), **options)
        schedule = make_schedule(optimizer, schedule="constant", warmup_steps=0, total_steps=6)
        return Learner(model, objective(), optimizer, schedule, Ema(model, 0.9))

    whole, first, second = learner(), learner(), learner()
    for step in range(6):
        whole.step(batch(seed=step))
    for step in range(3):
        first.step(batch(seed=step))
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.step(batch(seed=step))
    assert_same_state(second.state_dict(), whole.state_dict())
    assert torch.equal(whole.objective.buffer.images, second.objective.buffer.images)


def test_real_images_carry_the_input_noise(make_model):
    model, seen = make_model(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    objective(input_noise=0.2).terms(Networks(model, model, model), batch(), 0)
    added = seen[-1][: len(batch().x)] - batch().x
    assert added.std().item() == pytest.approx(0.2, rel=0.2)
