"""Robust accuracy of a linear classifier, whose distance to its decision boundary is known exactly."""

import math
from functools import partial

import pytest
import torch
from pyautoattack import AutoAttack

from atjem.robustness import (
    CLEAN,
    RECOUNT,
    _aim,
    _shorten,
    attacks_of,
    autoattack,
    holds_under_pgd,
    pgd_accuracy,
)

PATCHES = 4  # an 8x8 image has four 4x4 patches; class k is recognised by patch k
SCALE = 20.0
WEIGHTS = torch.zeros(PATCHES, 8, 8)
for patch in range(PATCHES):
    row, column = 4 * (patch // 2), 4 * (patch % 2)
    WEIGHTS[patch, row : row + 4, column : column + 4] = SCALE / 4  # 16 pixels: Euclidean norm SCALE

# An image 0.5 + t * (unit vector of its class) has a logit margin of SCALE * t to every other class. The
# difference of two rows has Euclidean norm SCALE * sqrt(2) and absolute sum SCALE * 8.
RADIUS_PER_T = {"L2": 1 / math.sqrt(2), "Linf": 1 / 8}


def images_with_radii(radii, norm, num_classes):
    """Images whose distance to the decision boundary is given; a negative one is misclassified."""
    y = torch.arange(len(radii)) % num_classes
    t = torch.tensor(radii) / RADIUS_PER_T[norm]
    return 0.5 + t.view(-1, 1, 1, 1) * (WEIGHTS[y] / SCALE).unsqueeze(1), y


@pytest.fixture
def make_classifier(make_linear):
    return lambda num_classes: make_linear(WEIGHTS[:num_classes].flatten(1))


NEAR = {
    "L2": (0.3, [0.05, 0.2, 0.28, 0.32, 0.4, 0.5, -0.1, 0.29]),
    "Linf": (0.05, [0.01, 0.047, 0.053, 0.06, 0.08, -0.01]),
}


@pytest.mark.parametrize(
    ("norm", "num_classes", "iterations"),
    [
        pytest.param("L2", 4, None, marks=pytest.mark.slow),
        ("L2", 4, 60),
        ("L2", 3, 60),
        ("L2", 2, 60),
        ("Linf", 4, 60),
    ],
)
def test_autoattack_finds_exactly_the_images_within_reach(norm, num_classes, iterations, make_classifier):
    eps, radii = NEAR[norm]
    x, y = images_with_radii([0.5 * radii[0], *radii[1:]], norm, num_classes)
    assert 0 <= x.min() <= x.max() <= 1
    settings = {"norm": norm, "eps": eps, "num_classes": num_classes, "iterations": iterations}
    outcome = autoattack(make_classifier(num_classes), x, y, **settings, seed=0)
    assert outcome.holds.tolist() == [radius > eps for radius in radii]
    assert [by == CLEAN for by in outcome.broken_by] == [radius < 0 for radius in radii]
    assert outcome.accuracy == pytest.approx(sum(radius > eps for radius in radii) / len(radii))


def test_autoattack_of_a_classifier_that_is_always_wrong(make_classifier):
    x, y = images_with_radii([0.4, 0.4], "L2", num_classes=4)
    settings = {"norm": "L2", "eps": 0.1, "num_classes": 4, "seed": 0}
    outcome = autoattack(make_classifier(4), x, (y + 1) % 4, **settings)
    assert (outcome.accuracy, outcome.broken_by) == (0.0, [CLEAN, CLEAN])


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("norm", NEAR)
def test_pgd_finds_exactly_the_images_within_reach(norm, num_classes, make_classifier):
    eps, radii = NEAR[norm]
    x, y = images_with_radii([0.5 * radii[0], *radii[1:]], norm, num_classes)
    robust = pgd_accuracy(make_classifier(num_classes), x, y, norm=norm, eps=eps, num_steps=40, seed=0)
    assert robust == pytest.approx(sum(radius > eps for radius in radii) / len(radii))


def test_pgd_is_fixed_by_its_seed_and_weaker_with_a_smaller_budget(make_model, make_images):
    model, x = make_model(), make_images(32)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    settings = {"norm": "L2", "num_steps": 5, "seed": 3}
    assert pgd_accuracy(model, x, y, eps=0.0, **settings) == 1.0
    robust = [pgd_accuracy(model, x, y, eps=0.05, **settings) for _ in range(2)]
    assert robust[0] == robust[1]
    assert pgd_accuracy(model, x, y, eps=2.0, **settings) <= robust[0]


def test_parameter_gradients_are_untouched(make_classifier):
    model = make_classifier(4)
    x, y = images_with_radii([0.1, 0.4], "L2", num_classes=4)
    pgd_accuracy(model, x, y, norm="L2", eps=0.3, num_steps=3, seed=0)
    autoattack(model, x[:1], y[:1], norm="L2", eps=0.3, num_classes=4, seed=0, iterations=3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pgd_accuracy_does_not_depend_on_the_chunks(make_classifier, monkeypatch):
    """Memory is bounded by the chunk, not by the number of images."""
    x, y = images_with_radii(NEAR["L2"][1] * 3, "L2", 4)
    sizes, model = [], make_classifier(4)
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    options = {"norm": "L2", "eps": 0.3, "num_steps": 5, "seed": 0}
    whole = pgd_accuracy(model, x, y, **options)
    monkeypatch.setattr("atjem.robustness.BATCH", 5)
    sizes.clear()
    assert pgd_accuracy(model, x, y, **options) == whole
    assert max(sizes) == 5


class Mean(torch.nn.Module):
    """A classifier of colour images that looks at the mean of their channels."""

    def __init__(self, grey: torch.nn.Module) -> None:
        super().__init__()
        self.grey = grey

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grey(x.mean(1, keepdim=True))


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_memory_format_of_the_images_does_not_matter(norm, make_classifier):
    x, y = images_with_radii([0.02, 0.04, 0.06], norm, num_classes=4)
    x = x.expand(-1, 3, -1, -1)
    settings = {"norm": norm, "eps": 0.03, "num_classes": 4, "seed": 0, "iterations": 5}
    model = Mean(make_classifier(4))
    plain = autoattack(model, x.contiguous(), y, **settings)
    last = autoattack(model, x.contiguous(memory_format=torch.channels_last), y, **settings)
    assert last.broken_by == plain.broken_by
    assert plain.accuracy > 0


def test_a_model_of_nan_has_no_robust_accuracy(make_classifier):
    x, y = images_with_radii([0.2, 0.4], "L2", num_classes=4)
    broken = make_classifier(4)
    for parameter in broken.parameters():
        parameter.data.fill_(torch.nan)
    options = {"norm": "L2", "eps": 0.1, "seed": 0}
    for measure in (partial(pgd_accuracy, num_steps=2), partial(autoattack, num_classes=4, iterations=1)):
        with pytest.raises(ValueError, match="logits are not finite: it has diverged"):
            measure(broken, x, y, **options)


@pytest.mark.parametrize(("num_classes", "targets"), [(2, 1), (4, 3), (10, 9), (1000, 9)])
def test_targeted_attacks_aim_at_nine_classes_or_all_others(num_classes, targets, make_classifier):
    attack = AutoAttack(make_classifier(4), norm="L2", eps=0.3, version="standard", device="cpu", seed=0)
    _aim(attack, num_classes)
    assert attack.apgd_targeted.n_target_classes == attack.fab.n_target_classes == targets


@pytest.fixture
def victims(make_model, make_images):
    """A small network and 12 images, most of which it classifies correctly."""
    model, x = make_model(), make_images(12)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % model.spec.num_classes
    return model, x, y


@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.05), ("Linf", 0.004)])
def test_images_and_books_are_autoattacks_own(victims, norm, eps):
    """Of each batch by itself, so that batches may be attacked by different processes."""
    model, x, y = victims
    num_classes = model.spec.num_classes
    settings = {"norm": norm, "eps": eps, "num_classes": num_classes, "seed": 3, "iterations": 4}
    ours = autoattack(model, x, y, **settings, batch_size=5)
    theirs = []
    for images, labels in zip(x.split(5), y.split(5), strict=True):
        reference = AutoAttack(model, norm=norm, eps=eps, version="standard", device="cpu", seed=3)
        _aim(reference, num_classes)
        _shorten(reference, 4)
        reference.attacks_to_run = attacks_of(num_classes)
        theirs.append(reference.run_standard_evaluation(images, labels, batch_size=5)[0])
    assert torch.equal(ours.x_adv, torch.cat(theirs))
    assert len(set(ours.broken_by)) > 2
    assert ours.num_changed == 0


class Late(torch.nn.Module):
    """Sees the first image as another class after some passes, which all have the same shape."""

    def __init__(self, model: torch.nn.Module, passes: int) -> None:
        super().__init__()
        self.model, self.passes, self.shapes = model, passes, set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.add(x.shape)
        assert len(self.shapes) == 1
        self.passes -= 1
        logits = self.model(x).clone()
        if self.passes < 0:
            logits[0] = logits[0].roll(1)
        return logits


def test_image_that_is_judged_otherwise_at_the_end_counts_as_broken(make_classifier):
    x, y = images_with_radii([0.4, 0.4, 0.05], "L2", num_classes=4)
    settings = {"norm": "L2", "eps": 0.01, "num_classes": 4, "seed": 0, "iterations": 2}
    model = make_classifier(4)
    outcome = autoattack(model, x, y, **settings)
    assert (outcome.broken_by, outcome.num_changed) == (["", "", ""], 0)
    outcome = autoattack(model, x, y, **settings, judge=Late(model, passes=5))
    assert (outcome.broken_by, outcome.num_changed) == ([RECOUNT, "", ""], 1)


def test_the_judge_decides_what_is_broken(make_classifier):
    """It may be the same network in another precision; here it sees class 0 whatever the image."""
    x, y = images_with_radii([0.2, 0.4], "L2", num_classes=4)
    model, favour = make_classifier(4), torch.tensor([1000.0, 0.0, 0.0, 0.0])
    settings = {"norm": "L2", "eps": 0.3, "seed": 0}
    attack = partial(autoattack, model, x, y, **settings, num_classes=4, iterations=20)
    pgd = partial(holds_under_pgd, model, x, y, **settings, num_steps=20)
    judge = Biased(model, favour)
    assert attack().broken_by == ["apgd-ce", ""]
    assert attack(judge=judge).broken_by == ["", CLEAN]
    assert [pgd().tolist(), pgd(judge=judge).tolist()] == [[False, True], [True, False]]


def test_image_that_only_the_judge_sees_correctly_counts_as_broken(make_classifier):
    """Attacks pass over what the attacked network misclassifies anyway."""
    x, y = images_with_radii([0.4, 0.4], "L2", num_classes=4)
    model = make_classifier(4)
    settings = {"norm": "L2", "eps": 0.01, "num_classes": 4, "seed": 0, "iterations": 2}
    attacked = Biased(model, torch.tensor([1000.0, 0.0, 0.0, 0.0]))
    outcome = autoattack(attacked, x, y, **settings, judge=model)
    assert (outcome.broken_by, outcome.num_changed) == (["", RECOUNT], 1)


class Biased(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, bias: torch.Tensor) -> None:
        super().__init__()
        self.model, self.bias = model, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) + self.bias


def test_more_restarts_break_no_less(victims):
    model, x, y = victims
    options = {"norm": "L2", "eps": 0.05, "num_steps": 3, "seed": 0}
    one, three = (holds_under_pgd(model, x, y, restarts=number, **options) for number in (1, 3))
    assert not (three & ~one).any()
