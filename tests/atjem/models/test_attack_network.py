"""The learner's step is the straightforward one, faster: shown in float64, where rounding hides nothing."""

import copy

import pytest
import torch

from atjem.adversarial import ClassifierAttack, DualAdversarialTraining
from atjem.balls import L2
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.learner import Learner
from atjem.models.attack_network import AttackNetwork
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch
from benchmarks.baseline.straightforward import Straightforward

SHAPES = {"wrn-10-1": 8, "wrn-16-2": 8, "resnet-18": 32, "resnet-50": 32, "convnext-tiny": 32}
OPTIMIZER = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "betas": (0.9, 0.95)}


def network(arch: str, seed: int = 0) -> torch.nn.Module:
    """A network in float64 whose norms do something.

    Mean and std are exact in binary: a model made in float32 has rounded them.
    """
    torch.manual_seed(seed)
    spec = ModelSpec(arch, 5, 3, SHAPES[arch], mean=(0.5, 0.375, 0.25), std=(0.25, 0.3125, 0.1875))
    model = build_model(spec).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.add_(0.3 * torch.randn_like(tensor))
            module.running_var.mul_(0.5 + torch.rand_like(module.running_var))
    return model.eval()


def make_batch(seed: int, image_size: int, num: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x, x_real, x_seed = (
        torch.rand(num, 3, image_size, image_size, generator=rng, dtype=torch.float64) for _ in range(3)
    )
    y, y_real = (torch.randint(5, (num,), generator=rng) for _ in range(2))
    return Batch(x, y, x_real, y_real, 0.5 * x_seed)


def learner(model, num_steps: int, classifier_steps: int) -> Learner:
    rule = make_optimizer(model.parameters(), **OPTIMIZER)
    schedule = make_schedule(rule, schedule="constant", warmup_steps=0, total_steps=2)
    attack = ClassifierAttack(L2(0.5), 0.1, classifier_steps)
    objective = DualAdversarialTraining(attack, contrastive_step_size=0.1)
    curriculum = Curriculum(num_steps, max_steps=99, threshold=2.0, window=1)
    return Learner(model, objective, rule, schedule, Ema(model, 0.999), curriculum)


@pytest.mark.parametrize(
    ("arch", "num_steps", "classifier_steps", "channels_last"),
    [
        ("wrn-10-1", 0, 10, False),
        ("wrn-10-1", 4, 10, True),
        ("wrn-16-2", 14, 10, True),
        ("resnet-18", 2, 1, True),
        pytest.param("convnext-tiny", 2, 1, True, marks=pytest.mark.slow),
    ],
)
def test_two_steps_equal_the_straightforward_ones(arch, num_steps, classifier_steps, channels_last):
    plain = network(arch)
    start, fast = copy.deepcopy(plain), copy.deepcopy(plain)
    if channels_last:
        fast = fast.to(memory_format=torch.channels_last)
    rule = make_optimizer(plain.parameters(), **OPTIMIZER)
    slow = Straightforward(plain, copy.deepcopy(plain), rule, classifier_steps=classifier_steps)
    quick = learner(fast, num_steps, classifier_steps)
    for seed in range(2):
        batch = make_batch(seed, SHAPES[arch], 4 if arch.startswith("wrn") else 1)
        expected, found = slow.step(batch, num_steps), quick.step(batch)
        assert found["loss"].item() == pytest.approx(expected["loss"], rel=1e-12)
        assert found["auroc"].item() == expected["auroc"]
    assert update_difference(fast, plain, start) < 1e-10
    assert update_difference(quick.ema.module, slow.ema, start) < 1e-10


def update_difference(model, expected, start) -> float:
    """How far apart two trainings from `start` ended, over the way that they went."""
    ended, wanted, began = (
        torch.cat([parameter.flatten() for parameter in own.parameters()]) for own in (model, expected, start)
    )
    assert (wanted - began).norm() > 0
    return ((ended - wanted).norm() / (wanted - began).norm()).item()


@pytest.mark.parametrize("arch", SHAPES)
def test_attack_network_is_the_same_function(arch):
    model = network(arch)
    twin = AttackNetwork(model)
    x = torch.rand(3, 3, SHAPES[arch], SHAPES[arch], dtype=torch.float64)
    torch.testing.assert_close(twin.network(x), model(x), rtol=1e-11, atol=1e-12)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    twin.refresh()
    torch.testing.assert_close(twin.network(x), model(x), rtol=1e-11, atol=1e-12)
    assert not any(parameter.requires_grad for parameter in twin.network.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "left"), [("wrn-10-1", 4), ("wrn-16-2", 6), ("resnet-18", 0), ("convnext-tiny", 0)]
)
def test_number_of_norms_that_cannot_be_folded(arch, left):
    twin = AttackNetwork(network(arch)).network
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules()) == left


def test_weights_that_are_not_folded_take_no_memory():
    model = network("convnext-tiny")
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in AttackNetwork(model).network.parameters()} == own


def test_bfloat16_weights_are_those_that_autocast_would_make():
    model = network("wrn-16-2").float()
    x = torch.rand(3, 3, 8, 8)
    network_ = AttackNetwork(model, torch.bfloat16)
    assert network_.network.backbone.stem.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = AttackNetwork(model).network(x)
        assert torch.equal(network_.network(x), expected)
        for parameter in model.parameters():
            parameter.data.mul_(1.1)
        network_.refresh()
        assert torch.equal(network_.network(x), AttackNetwork(model).network(x))
