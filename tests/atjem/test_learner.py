"""Training steps: statistics, accumulation, resuming, metrics, and the losses of a stored short run.

The stored losses (golden_losses.json) may not move in a refactor. Where a change of the numbers is meant,
regenerate them with `python tests/atjem/test_learner.py` and say why in the commit.
"""

import copy
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.attacks import pgd_together
from atjem.balls import L2
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.energies import energy
from atjem.learner import Learner
from atjem.losses import classifier_loss, energy_loss, r1_penalty
from atjem.models.registry import ModelSpec, build_model
from atjem.optim import make_optimizer, make_schedule
from atjem.sampling import sample
from atjem.scores import accuracy, auroc
from atjem.training_objective import Batch

GOLDEN = Path(__file__).with_name("golden_losses.json")
ATTACK = ClassifierAttack(L2(0.5), step_size=0.2, num_steps=3)


def adversarial_training(**settings):
    return AdversarialTraining(ATTACK, **settings)


def dual_training(**settings):
    return DualAdversarialTraining(ATTACK, contrastive_step_size=0.2, **settings)


def attacked(model, x, y):
    return pgd_together(model, [ATTACK.on(x, y)])[0].x


def make_curriculum(num_steps=2, *, window=1, threshold=2.0, max_steps=9):
    """With the threshold out of reach, T stays what it is."""
    return Curriculum(num_steps=num_steps, max_steps=max_steps, threshold=threshold, window=window)


def make_learner(
    objective, *, seed=0, dtype=torch.float32, optimizer="sgd", lr=0.05, curriculum=None, **settings
):
    torch.manual_seed(seed)
    spec = ModelSpec("wrn-10-1", num_classes=4, channels=1, image_size=8, mean=(0.5,), std=(0.25,))
    model = build_model(spec).to(dtype)
    rule = make_optimizer(
        model.parameters(), name=optimizer, lr=lr, momentum=0.9, weight_decay=5e-4, betas=(0.9, 0.95)
    )
    schedule = make_schedule(rule, schedule="cosine", warmup_steps=2, total_steps=20)
    return Learner(model, objective, rule, schedule, Ema(model, 0.999), curriculum, **settings)


def make_batch(seed=0, *, size=8, dtype=torch.float32):
    """Uniform noise with random labels; the out-of-distribution seeds are dark."""
    rng = torch.Generator().manual_seed(seed)
    x, x_real, x_seed = (torch.rand(size, 1, 8, 8, generator=rng).to(dtype) for _ in range(3))
    y, y_real = (torch.randint(4, (size,), generator=rng) for _ in range(2))
    return Batch(x, y, x_real, y_real, 0.5 * x_seed)


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def norm_parameters(model):
    """Weight and bias of every BatchNorm."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [parameter for norm in norms for parameter in (norm.weight, norm.bias)]


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


# Normalisation


def test_stage1_statistics_come_from_one_pass_over_the_attacked_images():
    learner = make_learner(adversarial_training(), dtype=torch.float64)
    batch = make_batch(dtype=torch.float64)
    by_hand, before = copy.deepcopy(learner.model), buffers(learner.model)
    x_adv = attacked(by_hand.eval(), batch.x, batch.y)
    assert_same_state(buffers(by_hand), before)  # the attack alone leaves them
    by_hand.train()(x_adv)
    learner.step(batch)
    torch.testing.assert_close(buffers(learner.model), buffers(by_hand), rtol=1e-10, atol=1e-12)
    assert learner.model.training
    assert learner.model.backbone.bn.num_batches_tracked == 1


def test_plain_training_sees_the_images_themselves():
    learner, batch = make_learner(AdversarialTraining(attack=None)), make_batch()
    by_hand = copy.deepcopy(learner.model).train()
    expected = classifier_loss(by_hand(batch.x), batch.y).mean()
    assert learner.step(batch)["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "objective", [dual_training(), adversarial_training(freezes_norm=True)], ids=["dual", "adversarial"]
)
def test_frozen_norm_keeps_its_statistics_and_trains_its_affine_parameters(objective):
    learner = make_learner(objective, curriculum=make_curriculum())
    before = buffers(learner.model)
    affine = [parameter.detach().clone() for parameter in norm_parameters(learner.model)]
    for seed in range(3):
        learner.step(make_batch(seed))
    assert {name.rsplit(".", 1)[1] for name in before} >= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert_same_state(buffers(learner.model), before)
    assert len(affine) == 2 * 7
    for parameter, initial in zip(norm_parameters(learner.model), affine, strict=True):
        assert not torch.equal(parameter, initial)


# The objectives


def test_dual_loss_by_hand():
    objective = dual_training(classifier_weight=0.5, energy_weight=2.0, r1_weight=0.25)
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
        "r1": r1,
        "loss": 0.5 * clf + 2.0 * bce + 0.25 * r1,
        "adversarial_accuracy": accuracy(logits_adv, batch.y).item(),
        "energy_real": energy(model, batch.x_real).mean().item(),
        "energy_contrast": energy(model, x_contrast).mean().item(),
        "energy_seed": energy(model, batch.x_seed).mean().item(),
        "auroc": auroc(logits_real[own], logits_contrast[own]).item(),
        "contrastive_steps": 3.0,
        "input_gradient": gradient.flatten(1).norm(dim=1).mean().item(),
    }
    metrics = {name: value.item() for name, value in learner.step(batch).items()}
    assert metrics == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mode", ["joint", "marginal"])
def test_mode_chooses_the_contrastive_images(mode):
    learner = make_learner(dual_training(mode=mode), curriculum=make_curriculum(num_steps=3))
    model, batch = copy.deepcopy(learner.model).eval(), make_batch()
    x_contrast = sample(model, batch.x_seed, batch.y_real, step_size=0.2, num_steps=3, mode=mode)
    expected = energy(model, x_contrast).mean().item()
    assert learner.step(batch)["energy_contrast"].item() == pytest.approx(expected, rel=1e-5)


def test_at_zero_steps_the_contrastive_images_are_the_seeds():
    learner, batch = make_learner(dual_training(), curriculum=make_curriculum(num_steps=0)), make_batch()
    expected = energy(copy.deepcopy(learner.model).eval(), batch.x_seed).mean().item()
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


def test_real_images_get_lower_energy_than_seeds():
    learner = make_learner(dual_training(), curriculum=make_curriculum(num_steps=0))
    batch = make_batch()
    first = learner.step(batch)
    for _ in range(15):
        last = learner.step(batch)
    assert last["energy_loss"] < 0.8 * first["energy_loss"]
    assert last["energy_real"] < last["energy_contrast"]
    assert last["auroc"] > first["auroc"]


def test_classifier_learns_its_attacked_images():
    learner, batch = make_learner(adversarial_training()), make_batch()
    losses = [learner.step(batch)["loss"].item() for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]


# Metrics


DUAL_KEYS = {
    "loss",
    "classifier_loss",
    "energy_loss",
    "adversarial_accuracy",
    "energy_real",
    "energy_contrast",
    "energy_seed",
    "auroc",
    "contrastive_steps",
    "input_gradient",
}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (adversarial_training(), {"loss", "classifier_loss", "adversarial_accuracy"}),
        (dual_training(), DUAL_KEYS),
        (dual_training(r1_weight=0.1), DUAL_KEYS | {"r1"}),
    ],
    ids=["adversarial", "dual", "dual-r1"],
)
def test_metric_names(objective, expected):
    curriculum = make_curriculum() if expected >= DUAL_KEYS else None
    metrics = make_learner(objective, curriculum=curriculum).step(make_batch())
    assert metrics.keys() == expected
    for value in metrics.values():
        assert value.ndim == 0
        assert value.isfinite()
        assert not value.requires_grad


def test_curriculum_is_fed_and_its_next_value_is_used():
    learner = make_learner(dual_training(), curriculum=make_curriculum(0, threshold=0.0, max_steps=2))
    steps = [learner.step(make_batch(seed))["contrastive_steps"].item() for seed in range(4)]
    assert steps == [0, 1, 2, 2]


# The optimiser step


@pytest.mark.parametrize(
    "objective",
    [dual_training(), dual_training(r1_weight=0.5), adversarial_training(freezes_norm=True)],
    ids=["dual", "dual-r1", "adversarial"],
)
def test_accumulation_equals_the_whole_batch(objective):
    batch = make_batch(dtype=torch.float64)
    whole, parts = (
        make_learner(objective, dtype=torch.float64, curriculum=make_curriculum(), accumulate=num)
        for num in (1, 2)
    )
    for _ in range(2):
        expected = {name: value.item() for name, value in whole.step(batch).items()}
        metrics = {name: value.item() for name, value in parts.step(batch).items()}
        assert relative_difference(gradients(parts.model), gradients(whole.model)) < 1e-10
        assert metrics == pytest.approx(expected, rel=1e-10)
    for part, one in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(part, one, rtol=1e-10, atol=1e-12)


def test_micro_batches_hold_the_batch_in_order():
    batch = make_batch(size=6)
    parts = list(batch.chunks(3))
    assert [len(part.x) for part in parts] == [2, 2, 2]
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)


def test_micro_batches_of_a_batch_without_energy_images():
    batch = make_batch()
    parts = list(Batch(batch.x, batch.y).chunks(2))
    assert [len(part.x) for part in parts] == [4, 4]
    assert all(part.x_real is part.y_real is part.x_seed is None for part in parts)


def test_gradients_of_one_step_do_not_reach_the_next():
    once, twice = (make_learner(dual_training(), curriculum=make_curriculum(), lr=0.0) for _ in range(2))
    once.step(make_batch(1))
    twice.step(make_batch(0))
    twice.step(make_batch(1))
    assert torch.equal(gradients(twice.model), gradients(once.model))


@pytest.mark.parametrize(("clip_norm", "clips"), [(0.01, True), (1e6, False)], ids=["small", "large"])
def test_gradient_norm_is_clipped(clip_norm, clips):
    clipped, plain = (
        make_learner(dual_training(), curriculum=make_curriculum(), clip_norm=norm)
        for norm in (clip_norm, None)
    )
    for learner in (clipped, plain):
        learner.step(make_batch())
    expected = clip_norm if clips else gradients(plain.model).norm().item()
    assert gradients(clipped.model).norm().item() == pytest.approx(expected, rel=1e-3)


def test_schedule_and_average_move_once_a_step():
    learner = make_learner(adversarial_training(), accumulate=2)
    for num_steps in range(1, 4):
        learner.step(make_batch(num_steps))
        assert learner.schedule.last_epoch == num_steps
        assert learner.ema.num_updates == num_steps


def test_compiled_step_is_the_plain_one():
    """A graph for each batch shape: both attacks, the longer one's rest, the update."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain, compiled = (
        make_learner(dual_training(), dtype=torch.float64, curriculum=make_curriculum(5), compiled=value)
        for value in (False, True)
    )
    for seed in range(2):
        expected = {
            name: value.item() for name, value in plain.step(make_batch(seed, dtype=torch.float64)).items()
        }
        found = {
            name: value.item() for name, value in compiled.step(make_batch(seed, dtype=torch.float64)).items()
        }
        assert found == pytest.approx(expected, rel=1e-9)
    assert relative_difference(gradients(compiled.model), gradients(plain.model)) < 1e-9


# Resuming


RUNS = [
    (adversarial_training(), "sgd", None),
    (dual_training(), "sgd", {"num_steps": 1, "window": 3, "threshold": 0.0}),
    (dual_training(), "adamw", {"num_steps": 1, "window": 3, "threshold": 0.0}),
]


@pytest.mark.parametrize(
    ("objective", "optimizer", "curriculum"), RUNS, ids=["adversarial-sgd", "dual-sgd", "dual-adamw"]
)
def test_resumed_run_is_bit_equal(objective, optimizer, curriculum):
    def fresh(seed):
        own = make_curriculum(**curriculum) if curriculum else None
        return make_learner(objective, seed=seed, optimizer=optimizer, lr=0.01, curriculum=own)

    whole, first = fresh(seed=0), fresh(seed=0)
    expected = [whole.step(make_batch(step)) for step in range(5)]
    for step in range(2):  # in the middle of the curriculum's window
        first.step(make_batch(step))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second = fresh(seed=1)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    metrics = [second.step(make_batch(step)) for step in range(2, 5)]
    assert_same_state(metrics, expected[2:])
    assert_same_state(second.state_dict(), whole.state_dict())
    if curriculum:
        assert second.curriculum.num_steps == 2


# The stored run


def golden_losses():
    """Five steps of stage 1, then five of stage 2 from its weights, on seeded noise. In float64, so that
    processors agree."""
    settings = {"dtype": torch.float64, "lr": 0.02}
    stage1 = make_learner(adversarial_training(), **settings)
    stage2 = make_learner(
        dual_training(), curriculum=make_curriculum(2, threshold=0.0, max_steps=4), **settings
    )
    losses = {"stage1": [stage1.step(make_batch(seed, dtype=torch.float64)) for seed in range(5)]}
    stage2.model.load_state_dict(stage1.model.state_dict())
    losses["stage2"] = [stage2.step(make_batch(seed, dtype=torch.float64)) for seed in range(5, 10)]
    return {
        stage: {
            name: [metrics[name].item() for metrics in steps]
            for name in ("loss", "classifier_loss", "energy_loss")
            if name in steps[0]
        }
        for stage, steps in losses.items()
    }


def test_losses_of_the_stored_run():
    stored, losses = json.loads(GOLDEN.read_text()), golden_losses()
    assert losses.keys() == stored.keys()
    for stage, series in stored.items():
        assert losses[stage].keys() == series.keys()
        for name, values in series.items():
            assert losses[stage][name] == pytest.approx(values, rel=1e-4), f"{stage}: {name}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps(golden_losses(), indent=2) + "\n")
