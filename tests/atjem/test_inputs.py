"""The public functions refuse what they cannot mean, in words."""

import numpy as np
import pytest
import torch

import atjem
from atjem.balls import make_ball
from atjem.models.registry import ModelSpec, build_model
from atjem.objectives import cross_entropy

X, Y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
CALLS = {
    "classify": lambda model, x, y: atjem.classify(model, x),
    "energy": atjem.energy,
    "attack": lambda model, x, y: atjem.attack(model, x, y, eps=0.5),
    "sample": lambda model, x, y: atjem.sample(model, x, y, step_size=0.1, num_steps=1),
    "counterfactual": lambda model, x, y: atjem.counterfactual(model, x, y, eps=0.5, num_steps=1),
}
IMAGES = {
    "8-bit": ((X * 255).byte(), r"\(3, 1, 8, 8\) torch.uint8; they must be .* floats in \[0, 1\]"),
    "not divided": (X * 255, r"pixels go from .*; they must lie in \[0, 1\] \(divide 8-bit images by 255\)"),
    "one image": (X[0], r"images are \(1, 8, 8\) torch.float32"),
    "colour": (X.expand(3, 3, 8, 8), "this model takes 1 channels"),
    "not finite": (X * torch.nan, r"pixels go from nan to nan; they must lie in \[0, 1\]"),
}
LABELS = {
    "too few": (Y[:2], r"labels are \(2,\) torch.int64; 3 images need \(3,\) torch.int64"),
    "int32": (Y.int(), r"labels are \(3,\) torch.int32"),
    "no such class": (Y + 9, r"labels go from 9 to 11; they must be 0 to "),
    "negative": (Y - 1, r"labels go from -1 to 1"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", IMAGES)
def test_images(name, kind, make_model):
    x, message = IMAGES[kind]
    with pytest.raises(ValueError, match=message):
        CALLS[name](make_model(), x, Y)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "classify"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels(name, kind, make_model):
    y, message = LABELS[kind]
    with pytest.raises(ValueError, match=message):
        CALLS[name](make_model(), X, y)


@pytest.mark.parametrize("name", CALLS)
def test_good_input_is_taken(name, make_model):
    assert len(CALLS[name](make_model(), X, Y)) == 3


def test_probabilities(make_model):
    probabilities = atjem.classify(make_model(), X)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities.log().diff(), make_model()(X).diff().detach())


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_attack_hides_the_class_or_shows_the_target(norm, make_model):
    model = make_model()
    other = (Y + 1) % 3
    before = atjem.classify(model, X)
    away = atjem.classify(model, atjem.attack(model, X, Y, eps=0.5, norm=norm))
    towards = atjem.classify(model, atjem.attack(model, X, other, eps=0.5, norm=norm, targeted=True))
    rows = torch.arange(3)
    assert (away[rows, Y] < before[rows, Y]).all()
    assert (towards[rows, other] > before[rows, other]).all()


def test_attack_starts_where_its_generator_says(make_model):
    starts = [
        atjem.attack(make_model(), X, Y, eps=0.5, num_steps=0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert ((starts[0] - X).flatten(1).norm(dim=1) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("changed", "message"), [({"norm": "l2"}, "norm='l2' is unknown"), ({"eps": -1.0}, "eps=-1.0")]
)
def test_attack_refuses_a_ball_that_is_none(changed, message, make_model):
    with pytest.raises(ValueError, match=message):
        atjem.attack(make_model(), X, Y, **{"eps": 0.5} | changed)


TUNED = {
    "attack": lambda model, x, y, **given: atjem.attack(model, x, y, **{"eps": 0.5, **given}),
    "counterfactual": lambda model, x, y, **given: atjem.counterfactual(model, x, y, **{"eps": 0.5, **given}),
    "sample": lambda model, x, y, **given: atjem.sample(
        model, x, y, **{"step_size": 0.1, "num_steps": 2, **given}
    ),
}


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec("wrn-10-1", 4, 1, 8, (0.5,), (0.25,))).eval()


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_steps": -1}, "num_steps=-1"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"num_steps": "3"}, "num_steps='3'"),
        ({"num_steps": True}, "num_steps=True"),
        ({"step_size": float("nan")}, "step_size=nan"),
        ({"step_size": float("inf")}, "step_size=inf"),
        ({"step_size": -0.1}, "step_size=-0.1"),
    ],
    ids=str,
)
def test_amounts_that_make_no_sense(name, given, told):
    with pytest.raises(ValueError, match=r"is no (number of steps|length)") as caught:
        TUNED[name](small_model(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]), **given)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("name", ["attack", "counterfactual"])
@pytest.mark.parametrize("eps", [float("inf"), float("nan"), -1, "0.5", None], ids=str)
def test_radii_that_make_no_sense(name, eps):
    with pytest.raises(ValueError, match="is no radius"):
        TUNED[name](small_model(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]), eps=eps)


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    "labels", [None, [0, 1, 2], torch.tensor([0, 1]), torch.tensor([0.0, 1, 2])], ids=str
)
def test_each_image_needs_a_class(name, labels):
    with pytest.raises(ValueError, match="labels are"):
        TUNED[name](small_model(), torch.rand(3, 1, 8, 8), labels)


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    "images",
    [np.zeros((3, 1, 8, 8)), torch.rand(3, 1, 8, 8).double(), torch.rand(3, 1, 8, 8).bfloat16(), None],
    ids=["numpy", "double", "bfloat16", "none"],
)
def test_images_of_another_kind(name, images):
    with pytest.raises(ValueError, match="images are"):
        TUNED[name](small_model(), images, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("name", TUNED)
def test_a_model_in_train_mode_is_refused_and_stays_as_it_was(name):
    model = small_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        TUNED[name](model, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_samples_of_no_steps_are_a_copy():
    seeds = torch.rand(2, 1, 8, 8)
    images = atjem.sample(small_model(), seeds, torch.tensor([0, 1]), step_size=0.1, num_steps=0)
    assert torch.equal(images, seeds)
    assert images.data_ptr() != seeds.data_ptr()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_an_attack_takes_twenty_steps_that_cross_its_ball(norm):
    model, x, y = small_model(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    ball = make_ball(norm, 0.3)
    told = {"objective": cross_entropy, "ball": ball, "step_size": 2.5 * 0.3 / 20, "num_steps": 20}
    assert torch.equal(atjem.attack(model, x, y, eps=0.3, norm=norm), atjem.pgd(model, x, y, **told))
