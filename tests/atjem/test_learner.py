"""Training steps: statistics, accumulation, resuming, metrics, and the losses of a stored short run.

The stored losses (golden_losses.json) may not move in a refactor. Where a change of the numbers is meant,
regenerate them with `python -m tests.atjem.test_learner` and say why in the commit.
"""

import copy
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.learning import (
    adversarial_training,
    assert_same_state,
    attacked,
    buffers,
    dual_training,
    gradients,
    make_batch,
    make_curriculum,
    make_learner,
    numbers,
    relative_difference,
)

GOLDEN = Path(__file__).with_name("golden_losses.json")


def affine_parameters(model):
    """Weight and bias of every BatchNorm."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [parameter for norm in norms for parameter in (norm.weight, norm.bias)]


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


@pytest.mark.parametrize(
    "objective", [dual_training(), adversarial_training(freezes_norm=True)], ids=["dual", "adversarial"]
)
def test_frozen_norm_keeps_its_statistics_and_trains_its_affine_parameters(objective):
    learner = make_learner(objective, curriculum=make_curriculum())
    before = buffers(learner.model)
    affine = [parameter.detach().clone() for parameter in affine_parameters(learner.model)]
    for seed in range(3):
        learner.step(make_batch(seed))
    kinds = {name.rsplit(".", 1)[1] for name in before}
    assert kinds >= {"running_mean", "running_var", "num_batches_tracked"}
    assert_same_state(buffers(learner.model), before)
    assert len(affine) == 2 * 7
    for parameter, initial in zip(affine_parameters(learner.model), affine, strict=True):
        assert not torch.equal(parameter, initial)


# The optimiser step


@pytest.mark.parametrize(
    "objective",
    [dual_training(), dual_training(r1_weight=0.5), adversarial_training(freezes_norm=True)],
    ids=["dual", "dual-r1", "adversarial"],
)
def test_accumulation_equals_the_whole_batch(objective):
    batch = make_batch(dtype=torch.float64)
    whole, parts = (
        make_learner(objective, dtype=torch.float64, curriculum=make_curriculum(), shares=shares)
        for shares in (None, [[3], [3], [2]])
    )
    for num_steps in (1, 2):
        expected, metrics = whole.step(batch), parts.step(batch)
        assert relative_difference(gradients(parts.model), gradients(whole.model)) < 1e-10
        assert numbers(metrics) == pytest.approx(numbers(expected), rel=1e-10)
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
        assert parts.schedule.last_epoch == parts.ema.num_updates == num_steps
    for part, one in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(part, one, rtol=1e-10, atol=1e-12)


def test_curriculum_is_fed_and_its_next_value_is_used():
    learner = make_learner(dual_training(), curriculum=make_curriculum(0, threshold=0.0, max_steps=2))
    steps = [learner.step(make_batch(seed))["contrastive_steps"].item() for seed in range(4)]
    assert steps == [0, 1, 2, 2]


def test_gradients_of_one_step_do_not_reach_the_next():
    once, twice = (make_learner(dual_training(), curriculum=make_curriculum(), lr=0.0) for _ in range(2))
    once.step(make_batch(1))
    twice.step(make_batch(0))
    twice.step(make_batch(1))
    assert torch.equal(gradients(twice.model), gradients(once.model))


@pytest.mark.parametrize("clip_norm", [0.01, 1e6], ids=["small", "large"])
def test_gradient_norm_is_clipped(clip_norm):
    clipped, plain = (
        make_learner(dual_training(), curriculum=make_curriculum(), clip_norm=norm)
        for norm in (clip_norm, None)
    )
    for learner in (clipped, plain):
        learner.step(make_batch())
    expected = min(clip_norm, gradients(plain.model).norm().item())
    assert gradients(clipped.model).norm().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_compiled_step_is_the_plain_one():
    """Two graphs: the attack's and the update's."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    objective = adversarial_training(freezes_norm=True)
    plain, compiled = (make_learner(objective, dtype=torch.float64, compiled=own) for own in (False, True))
    for seed in range(2):
        expected, found = (
            learner.step(make_batch(seed, dtype=torch.float64)) for learner in (plain, compiled)
        )
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-9)
    assert relative_difference(gradients(compiled.model), gradients(plain.model)) < 1e-9


# Resuming


GROWING = {"num_steps": 1, "window": 3, "threshold": 0.0}


@pytest.mark.parametrize(
    ("objective", "optimizer", "curriculum"),
    [
        (adversarial_training(), "sgd", None),
        (dual_training(), "sgd", GROWING),
        (dual_training(), "adamw", GROWING),
    ],
    ids=["adversarial-sgd", "dual-sgd", "dual-adamw"],
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
    """Five steps of stage 1, then five of stage 2 from its weights, on seeded noise.

    In float64, so that processors agree.
    """
    settings = {"dtype": torch.float64, "lr": 0.02}
    stage1 = make_learner(adversarial_training(), **settings)
    curriculum = make_curriculum(2, threshold=0.0, max_steps=4)
    stage2 = make_learner(dual_training(), curriculum=curriculum, **settings)
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
