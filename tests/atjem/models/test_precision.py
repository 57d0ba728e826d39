"""What stays in full precision under autocast."""

import pytest
import torch

from atjem.models.precision import InPrecision, allow_tf32, tf32_as_in


def test_float64_is_kept(make_model, make_images):
    assert make_model(dtype=torch.float64)(make_images(dtype=torch.float64)).dtype == torch.float64


def test_logits_under_autocast_are_float32(make_model, make_images):
    model, x = make_model(), make_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(x), rtol=0.1, atol=0.05)


def test_steps_finer_than_bfloat16_reach_the_stem_under_autocast(make_model):
    # Next to 1, bfloat16 resolves 1/128: a stem in bfloat16 would not see this change.
    model, x = make_model(mean=(0.0,), std=(1.0,)), torch.ones(1, 1, 8, 8)
    stems = []
    model.backbone.conv1.register_forward_hook(lambda module, args, output: stems.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        model(x - 1e-3)
    assert stems[0].dtype == torch.float32
    assert not torch.equal(stems[0], stems[1])


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def tf32_allowed():
    before = flags()
    allow_tf32("tf32")
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_network_runs_in_its_own_precision(precision, allowed, make_model, make_images, tf32_allowed):
    model, x, seen = make_model().eval(), make_images(), []
    plain = model(x)
    model.register_forward_hook(lambda *_: seen.append((flags(), torch.is_autocast_enabled("cpu"))))
    logits = InPrecision(model, precision)(x)
    assert seen == [((allowed, allowed), precision == "bf16")]
    assert flags() == (True, True)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, plain) == (precision != "bf16")


def test_block_of_code_has_its_own_tf32(tf32_allowed):
    with tf32_as_in("fp32"):
        assert flags() == (False, False)
    assert flags() == (True, True)
