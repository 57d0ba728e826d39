"""Adversarially trained joint energy models: one network that classifies, generates and explains.

Names are loaded on first use (PEP 562), so `import atjem` is light and pulls in no other room.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "attack": "atjem.attacks",
    "classify": "atjem.energies",
    "counterfactual": "atjem.counterfactuals",
    "energy": "atjem.energies",
    "load": "atjem.checkpoint",
    "pgd": "atjem.attacks",
    "sample": "atjem.sampling",
}

__all__ = ["attack", "classify", "counterfactual", "energy", "load", "pgd", "sample"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'atjem' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
