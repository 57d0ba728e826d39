"""Names in published checkpoints: what wraps a network, and what the families call their layers.

The names are those of MadryLab/robustness (attacker.py), RobustBench (its model zoo, after TRADES'
wideresnet.py), nmndeep/revisiting-at (utils_architecture.py) and the reference implementation of DAT.
"""

import re
from collections.abc import Iterable

from atjem.models.names import parse_convnext, parse_wrn

LAYOUTS = ("robustness", "robustbench", "convnext-cvst", "dat")
NORMALISATION = {
    "normalizer.new_mean": "mean",
    "normalizer.new_std": "std",
    "attacker.normalize.new_mean": "mean",
    "attacker.normalize.new_std": "std",
    "normalize.mean": "mean",
    "normalize.std": "std",
    "mu": "mean",
    "sigma": "std",
    "mean": "mean",
    "std": "std",
}
_WRAPPERS = re.compile(r"(?:(?:module|model|base_model)\.)*")
_WRN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def split_wrappers(name: str) -> tuple[str, str]:
    """'module.model.fc.bias' as what wraps the network, 'module.model.', and its own name, 'fc.bias'."""
    end = _WRAPPERS.match(name).end()  # type: ignore[union-attr]  # it matches the empty string too
    return name[:end], name[end:]


def unused(name: str) -> bool:
    """True for what no prediction needs: robustness' and TRADES' second copies, the EMA's counter."""
    return name.startswith(("attacker.model.", "sub_block1.")) or name == "n_averaged"


def layout_of(names: Iterable[str]) -> str:
    """Which of `LAYOUTS` a file's names follow; what has no mark of another is 'robustbench'."""
    own = {split_wrappers(name)[1] for name in names}
    if "n_averaged" in own:
        return "dat"
    if any(name.startswith(("attacker.", "normalizer.")) for name in own):
        return "robustness"
    return "convnext-cvst" if own & {"stem.stem.3.weight", "stem.3.weight"} else "robustbench"


def published_names(arch: str, names: Iterable[str], *, nested_stem: bool) -> dict[str, str]:
    """Names of our backbone's tensors to the published ones, without wrappers.

    A ConvNeXt's convolutional stem is `stem.stem.N` in its authors' files (`nested_stem`), else `stem.N`.
    """
    if shape := parse_wrn(arch):
        return {name: _wrn_name(name, (shape[0] - 4) // 6) for name in names}
    if parse_convnext(arch):
        return {name: _convnext_name(name, nested_stem) for name in names}
    return {name: name for name in names}


def _wrn_name(name: str, blocks_per_group: int) -> str:
    if match := _WRN_BLOCK.fullmatch(name):
        group, block = divmod(int(match[1]), blocks_per_group)
        return f"block{group + 1}.layer.{block}.{match[2].replace('shortcut.', 'convShortcut.')}"
    return f"bn1.{name.removeprefix('bn.')}" if name.startswith("bn.") else name


def _convnext_name(name: str, nested_stem: bool) -> str:
    name = name.removeprefix("body.")
    return f"stem.{name}" if nested_stem and name.startswith("stem.") else name
