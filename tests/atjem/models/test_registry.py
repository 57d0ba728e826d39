"""Models built by name: normalisation as the first layer, logits over features, seeded weights."""

import pytest
import torch

from atjem.models.registry import ModelSpec, build_model


def test_grey_model_refuses_colour_images(make_model):
    with pytest.raises(RuntimeError, match="channels"):
        make_model()(torch.rand(2, 3, 8, 8))


def test_normalisation_is_the_first_layer_and_not_trained(make_model, make_images):
    x = make_images()
    normalising, plain = make_model(mean=(0.3,), std=(0.2,)), make_model(mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(normalising(x), plain((x - 0.3) / 0.2))
    assert not torch.allclose(normalising(x), plain(x))
    assert not any(name.startswith("normalize") for name, _ in plain.named_parameters())


def test_normalisation_is_by_channel():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)
    model, x = build_model(ModelSpec("wrn-10-1", 10, 3, 32, mean, std)).eval(), torch.rand(2, 3, 8, 8)
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model.normalize(x), expected)
    assert model(x).shape == (2, 10)


def test_logits_are_linear_in_the_features(make_model, make_images):
    model, x = make_model(), make_images()
    features = model.features(x)
    assert features.shape == (6, 64)
    assert (features >= 0).all()
    torch.testing.assert_close(model.backbone.fc(features), model(x))


def test_weights_come_from_the_global_seed(make_model, make_images):
    x = make_images()
    assert torch.equal(make_model(seed=3)(x), make_model(seed=3)(x))
    assert not torch.equal(make_model(seed=3)(x), make_model(seed=4)(x))
