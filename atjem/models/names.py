"""Names of architectures, apart from the networks, so that settings are checked without importing torch."""

import re

ARCHITECTURES = "wrn-DEPTH-WIDTH with depth 6n + 4, such as wrn-10-1, wrn-28-4 or wrn-34-10"
_WRN = re.compile(r"wrn-([1-9]\d*)-([1-9]\d*)")


def parse_wrn(arch: str) -> tuple[int, int] | None:
    """Depth and width of a wide residual network's name; None for any other name."""
    match = _WRN.fullmatch(arch)
    if match is None or int(match[1]) < 10 or (int(match[1]) - 4) % 6:
        return None
    return int(match[1]), int(match[2])


def known_arch(arch: str) -> bool:
    """True when `atjem.models.registry.build_model` can build this name."""
    return parse_wrn(arch) is not None
