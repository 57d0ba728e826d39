"""Public functions accept the documented inputs and reject others with a clear error."""

import numpy as np
import pytest
import torch

import atjem
from atjem.balls import make_ball
from atjem.objectives import cross_entropy

X, Y = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
NAN, INF = float("nan"), float("inf")
TUNED = {
    "attack": lambda model, x, y, **given: atjem.attack(model, x, y, **{"eps": 0.5} | given),
    "counterfactual": lambda model, x, y, **given: atjem.counterfactual(model, x, y, **{"eps": 0.5} | given),
    "sample": lambda model, x, y, **given: atjem.sample(
        model, x, y, **{"step_size": 0.1, "num_steps": 2} | given
    ),
}
CALLS = {
    "classify": lambda model, x, y: atjem.classify(model, x),
    "energy": atjem.energy,
    **TUNED,
}
IMAGES = {
    "8-bit": ((X * 255).byte(), r"\(3, 1, 8, 8\) torch.uint8; they must be .* floats in \[0, 1\]"),
    "not divided": (X * 255, r"pixels go from .*; they must lie in \[0, 1\] \(divide 8-bit images by 255\)"),
    "one image": (X[0], r"images are \(1, 8, 8\) torch.float32"),
    "colour": (X.expand(3, 3, 8, 8), "this model takes 1 channels"),
    "not finite": (X * torch.nan, r"pixels go from nan to nan; they must lie in \[0, 1\]"),
    "numpy": (X.numpy(), "images are of type ndarray"),
    "double": (X.double(), "torch.float64; this model computes in torch.float32"),
    "none": (None, "images are of type NoneType"),
}
LABELS = {
    "too few": (Y[:2], r"labels are \(2,\) torch.int64; 3 images need \(3,\) torch.int64"),
    "int32": (Y.int(), r"labels are \(3,\) torch.int32"),
    "floats": (Y.float(), r"labels are \(3,\) torch.float32"),
    "no such class": (Y + 9, r"labels go from 9 to 11; they must be 0 to "),
    "negative": (Y - 1, r"labels go from -1 to 1"),
    "numpy": (np.arange(3), "labels are of type ndarray"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("x", "message"), IMAGES.values(), ids=IMAGES)
def test_images(name, x, message, make_model):
    with pytest.raises(ValueError, match=message):
        CALLS[name](make_model(), x, Y)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "classify"])
@pytest.mark.parametrize(("y", "message"), LABELS.values(), ids=LABELS)
def test_labels(name, y, message, make_model):
    with pytest.raises(ValueError, match=message):
        CALLS[name](make_model(), X, y)


@pytest.mark.parametrize("name", TUNED)
def test_each_image_needs_a_class(name, make_model):
    with pytest.raises(ValueError, match="labels are of type NoneType"):
        CALLS[name](make_model(), X, None)


@pytest.mark.parametrize("name", CALLS)
def test_good_input_is_taken(name, make_model):
    assert len(CALLS[name](make_model(), X, Y)) == 3


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    "given",
    [
        *({"num_steps": number} for number in (-1, 2.5, "3", True)),
        *({"step_size": length} for length in (NAN, INF, -0.1)),
    ],
    ids=str,
)
def test_amounts_that_make_no_sense(name, given, make_model):
    [(setting, value)] = given.items()
    with pytest.raises(ValueError, match=r"is no (number of steps|length)") as caught:
        TUNED[name](make_model(), X, Y, **given)
    assert str(caught.value).startswith(f"{setting}={value!r}")


@pytest.mark.parametrize("name", ["attack", "counterfactual"])
@pytest.mark.parametrize(
    ("given", "said"),
    [({"norm": "L1"}, "norm='L1' is unknown")]
    + [({"eps": eps}, f"eps={eps!r} is no radius") for eps in (INF, NAN, -1, "0.5", None)],
    ids=str,
)
def test_balls_that_make_no_sense(name, given, said, make_model):
    with pytest.raises(ValueError, match=said):
        TUNED[name](make_model(), X, Y, **given)


@pytest.mark.parametrize("name", TUNED)
def test_a_model_in_train_mode_is_refused_and_stays_as_it_was(name, make_model):
    model = make_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        TUNED[name](model, X, Y)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_probabilities(make_model):
    probabilities = atjem.classify(make_model(), X)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities.log().diff(), make_model()(X).diff().detach())


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_attack_takes_twenty_steps_that_hide_the_class_or_show_the_target(norm, make_model):
    model, other = make_model(), (Y + 1) % 3
    settings = {"objective": cross_entropy, "ball": make_ball(norm, 0.5)}
    plain = atjem.attack(model, X, Y, eps=0.5, norm=norm)
    assert torch.equal(plain, atjem.pgd(model, X, Y, **settings, step_size=2.5 * 0.5 / 20, num_steps=20))
    before, away = atjem.classify(model, X), atjem.classify(model, plain)
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


def test_samples_of_no_steps_are_a_copy(make_model):
    images = atjem.sample(make_model(), X, Y, step_size=0.1, num_steps=0)
    assert torch.equal(images, X)
    assert images.data_ptr() != X.data_ptr()
