"""Which names are networks."""

import re

import pytest

from atjem.models.footprint import PUBLISHED
from atjem.models.names import ARCHITECTURES, known_arch
from atjem.models.registry import ModelSpec, build_model

WRONG = "vgg-16", "wrn", "wrn-11-1", "wrn-4-1", "wrn-10-0", "wrn-010-1", "WRN-10-1", "wrn-10-1 ", ""


@pytest.mark.parametrize("arch", WRONG)
def test_unknown_arch_says_what_is_allowed(arch):
    assert not known_arch(arch)
    with pytest.raises(ValueError, match=re.escape(f"arch={arch!r} is unknown; use {ARCHITECTURES}")):
        build_model(ModelSpec(arch, 10, 3, 32, (0.5,) * 3, (0.2,) * 3))


@pytest.mark.parametrize("arch", ["wrn-10-1", "wrn-16-2", "wrn-34-10", *PUBLISHED])
def test_known_arch(arch):
    assert known_arch(arch)
