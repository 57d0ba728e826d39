"""A tiny network, a batch of noise and a learner around them, as several tests of training use them."""

import torch

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.attacks import pgd_together
from atjem.balls import L2
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.learner import Learner
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch

ATTACK = ClassifierAttack(L2(0.5), step_size=0.2, num_steps=3)


def tiny_network(seed=0, *, num_classes=4, dtype=torch.float32, mean=(0.5,), std=(0.25,)):
    """A seeded wrn-10-1 for 8x8 images with one channel, in train mode."""
    torch.manual_seed(seed)
    return build_model(ModelSpec("wrn-10-1", num_classes, 1, 8, mean, std)).to(dtype)


def adversarial_training(**settings):
    return AdversarialTraining(ATTACK, **settings)


def dual_training(**settings):
    return DualAdversarialTraining(ATTACK, contrastive_step_size=0.2, **settings)


def attacked(model, x, y):
    return pgd_together(model, [ATTACK.on(x, y)])[0].x


def make_curriculum(num_steps=2, *, window=1, threshold=2.0, max_steps=9):
    """With the threshold out of reach, T stays what it is."""
    return Curriculum(num_steps=num_steps, max_steps=max_steps, threshold=threshold, window=window)


def make_learner(objective, *, seed=0, dtype=torch.float32, optimizer="sgd", lr=0.05, curriculum=None, **own):
    model = tiny_network(seed, dtype=dtype)
    rule = make_optimizer(
        model.parameters(), name=optimizer, lr=lr, momentum=0.9, weight_decay=5e-4, betas=(0.9, 0.95)
    )
    schedule = make_schedule(rule, schedule="cosine", warmup_steps=2, total_steps=20)
    return Learner(model, objective, rule, schedule, Ema(model, 0.999), curriculum, **own)


def make_batch(seed=0, *, size=8, dtype=torch.float32):
    """Uniform noise with random labels; the out-of-distribution start images are dark."""
    rng = torch.Generator().manual_seed(seed)
    x, x_real, x_seed = (torch.rand(size, 1, 8, 8, generator=rng).to(dtype) for _ in range(3))
    y, y_real = (torch.randint(4, (size,), generator=rng) for _ in range(2))
    return Batch(x, y, x_real, y_real, 0.5 * x_seed)


def numbers(metrics):
    return {name: value.item() for name, value in metrics.items()}


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def relative_difference(a, b):
    return ((a - b).norm() / b.norm()).item()


def assert_same_state(a, b):
    """Bit equality of nested state dictionaries."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same_state(left, right)
    else:
        assert a == b
