"""Names of architectures, apart from the networks, so that settings are checked without importing torch."""

import re

CONVNEXT_SIZES = ("tiny", "small", "base", "large")
RESNETS = ("resnet-18", "resnet-50", "wrn-50-4")
ARCHITECTURES = (
    "wrn-DEPTH-WIDTH with depth 6n + 4 for small images (wrn-10-1, wrn-28-4, wrn-34-10), "
    "resnet-18, resnet-50, wrn-50-4, or convnext-SIZE and convnext-SIZE-cvst (tiny, small, base, large)"
)
# More digits would be no network, only a name that keeps a machine busy.
_WRN = re.compile(r"wrn-([1-9]\d{0,2})-([1-9]\d{0,2})")
_CONVNEXT = re.compile(rf"convnext-({'|'.join(CONVNEXT_SIZES)})(-cvst)?")


def parse_wrn(arch: str) -> tuple[int, int] | None:
    """Depth and width of a wide residual network for small images; None for any other name."""
    match = _WRN.fullmatch(arch)
    if match is None or int(match[1]) < 10 or (int(match[1]) - 4) % 6:
        return None
    return int(match[1]), int(match[2])


def parse_convnext(arch: str) -> tuple[str, bool] | None:
    """Size of a ConvNeXt and whether its stem is convolutional; None for any other name."""
    match = _CONVNEXT.fullmatch(arch)
    return None if match is None else (match[1], match[2] is not None)


def known_arch(arch: str) -> bool:
    """True when `atjem.models.registry.build_model` can build this name."""
    return arch in RESNETS or parse_wrn(arch) is not None or parse_convnext(arch) is not None
