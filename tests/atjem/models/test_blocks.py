"""Activation checkpointing changes nothing but memory."""

import copy

import pytest
import torch

from atjem.models.registry import ModelSpec, build_model


@pytest.mark.parametrize(
    ("arch", "training"),
    [("wrn-10-1", False), ("wrn-10-1", True), ("resnet-18", False), ("convnext-tiny", False)],
)
def test_recomputing_changes_nothing_but_memory(arch, training):
    """Statistics are gathered once."""
    torch.manual_seed(0)
    plain = build_model(ModelSpec(arch, 4, 3, 32, (0.5,) * 3, (0.5,) * 3)).train(training)
    leaner = copy.deepcopy(plain)
    leaner.backbone.recompute = True
    x = torch.rand(2, 3, 32, 32)
    for model in (plain, leaner):
        model(x).logsumexp(1).sum().backward()
    for one, other in zip(plain.parameters(), leaner.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for (name, one), (own, other) in zip(plain.named_buffers(), leaner.named_buffers(), strict=True):
        assert name == own
        assert torch.equal(one, other)
