"""JEM: Langevin steps by hand, the replay buffer, the loss, what an interruption brings back."""

import pytest
import torch

from atjem.ema import Ema
from atjem.energies import energy
from atjem.jem import JointEnergyTraining, Normal, ReplayBuffer, Sgld
from atjem.learner import Learner
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.ranks import Ranks
from atjem.training_objective import Batch, Networks

SHAPE = (1, 8, 8)


def normal(seed: int = 0) -> Normal:
    return Normal(generator(seed), Ranks(0, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec("wrn-10-1", 3, *SHAPE[:2], (0.5,), (0.5,))).eval()


def batch(seed: int | None = 5, num: int = 4) -> Batch:
    x = torch.rand(num, *SHAPE, generator=generator(1))
    return Batch(x, torch.arange(num) % 3, seed=seed)


def objective(**changed: float) -> JointEnergyTraining:
    settings = {"input_noise": 0.0, "energy_weight": 1.0} | changed
    buffer = ReplayBuffer.of_noise(16, SHAPE, 0.05, generator(2))
    return JointEnergyTraining(Sgld(2, 0.25, 0.005), buffer, **settings)


def test_one_step_without_noise_is_gradient_ascent_on_the_score():
    model, x = network(), torch.rand(2, *SHAPE, generator=generator())
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(-energy(model, leaf).sum(), leaf)
    assert torch.allclose(Sgld(1, 0.25, 0.0)(model, x, normal())[0], x + 0.25 * gradient)


def test_noise_has_the_stated_size_and_is_a_function_of_the_seed():
    model, x = network(), torch.rand(64, *SHAPE, generator=generator())
    still, gradient_norms = Sgld(1, 0.25, 0.0)(model, x, normal())
    noisy, _ = Sgld(1, 0.25, 0.1)(model, x, normal(3))
    assert torch.allclose(0.25 * gradient_norms, (still - x).flatten(1).norm(dim=1), rtol=1e-4)
    assert (noisy - still).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noisy, Sgld(1, 0.25, 0.1)(model, x, normal(3))[0])
    assert not torch.equal(noisy, Sgld(1, 0.25, 0.1)(model, x, normal(4))[0])


def test_parameters_gradients_are_untouched():
    model = network()
    Sgld(2, 0.25, 0.1)(model, torch.rand(2, *SHAPE), normal())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("reinit", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_a_share_of_the_starts_is_new(reinit, share):
    buffer = ReplayBuffer.of_noise(100, SHAPE, reinit, generator())
    starts, places = buffer.draw(4000, generator(1))
    new = (starts != buffer.images[places]).flatten(1).any(dim=1).float().mean().item()
    assert new == pytest.approx(share, abs=0.03)


def test_samples_go_back_to_their_places():
    buffer = ReplayBuffer.of_noise(10, SHAPE, 0.0, generator())
    before = buffer.images.clone()
    buffer.put(torch.tensor([3, 7]), torch.full((2, *SHAPE), 9.0))
    assert (buffer.images[[3, 7]] == 9).all()
    others = [0, 1, 2, 4, 5, 6, 8, 9]
    assert torch.equal(buffer.images[others], before[others])


def test_loss_is_cross_entropy_and_the_energy_gap():
    model, own = network(), objective(energy_weight=0.5)
    terms = own.terms(Networks(model, model, model), batch(), 0)
    first, gap = terms.watched["classifier_loss"], terms.watched["energy_loss"]
    assert terms.loss.item() == pytest.approx((first + 0.5 * gap).item())
    real = energy(model, batch().x).mean()
    assert terms.watched["energy_real"].item() == pytest.approx(real.item(), rel=1e-5)
    assert gap.item() == pytest.approx((real - terms.watched["energy_contrast"]).item(), rel=1e-4)


def test_resumed_training_is_the_uninterrupted_one():
    """The buffer is part of what a checkpoint holds."""

    def learner() -> Learner:
        model = network()
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
    pairs = zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(whole.objective.buffer.images, second.objective.buffer.images)


def test_micro_batches_draw_other_noise():
    seeds = [part.seed for part in batch(seed=7).chunks(2)]
    assert len(set(seeds)) == 2


def test_real_images_carry_the_input_noise():
    model = network()
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    noise = 0.2
    objective(input_noise=noise).terms(Networks(model, model, model), batch(), 0)
    hook.remove()
    x, added = batch().x, seen[-1][: len(batch().x)] - batch().x
    assert x.shape == added.shape
    assert added.std().item() == pytest.approx(noise, rel=0.2)
