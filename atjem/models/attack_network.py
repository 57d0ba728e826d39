"""The network as attacks see it: the same function of the image, with nothing that only training needs."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from atjem.models.registry import JointEnergyModel


@dataclass(frozen=True)
class _Fold:
    """A convolution, the BatchNorm behind it, and the weight and bias that do the work of both."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    weight: Tensor
    bias: Tensor

    def refresh(self) -> None:
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        scale = self.norm.weight * torch.rsqrt(var + self.norm.eps)
        self.weight.copy_(self.conv.weight * scale.view(-1, 1, 1, 1))
        self.bias.copy_(self.norm.bias - mean * scale)


class AttackNetwork:
    """A frozen twin of a model in eval mode, `network`; `refresh` brings it up to the model's weights.

    BatchNorm behind a convolution is folded into it where that is exact (`backbone.foldable`). Everything
    else shares the model's memory, or is cast once a refresh to what autocast would cast it to each time: a
    model that is moved or cast needs a new twin.
    """

    def __init__(self, model: "JointEnergyModel", cast: torch.dtype | None = None) -> None:
        self.network = _twin(model)
        self._folds = [_fold(model, self.network, *names) for names in model.backbone.foldable()]
        self._casts = _cast(self.network, cast) if cast else []
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        for fold in self._folds:
            fold.refresh()
        if self._casts:
            targets, sources = zip(*self._casts, strict=True)
            torch._foreach_copy_(targets, sources)


def _twin(model: "JointEnergyModel") -> "JointEnergyModel":
    """A copy of the modules around the model's own tensors, which ask for no gradient here."""
    shared: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    twin = copy.deepcopy(model, shared).eval()
    twin.backbone.recompute = False  # frozen blocks keep little
    return twin


def _fold(model: nn.Module, twin: nn.Module, conv_name: str, norm_name: str) -> _Fold:
    conv, norm = model.get_submodule(f"backbone.{conv_name}"), model.get_submodule(f"backbone.{norm_name}")
    folded = twin.get_submodule(f"backbone.{conv_name}")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(folded, nn.Conv2d)
    assert conv.bias is None
    folded.weight = nn.Parameter(torch.empty_like(conv.weight), requires_grad=False)
    folded.bias = nn.Parameter(torch.empty_like(norm.bias), requires_grad=False)
    twin.set_submodule(f"backbone.{norm_name}", nn.Identity())
    return _Fold(conv, norm, folded.weight, folded.bias)


def _cast(twin: "JointEnergyModel", dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Gives convolutions and linear layers behind the stem parameters of `dtype`: (cast, original) pairs."""
    kept = set(twin.backbone.stem.modules())
    pairs = []
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module not in kept:
            for name, parameter in list(module.named_parameters(recurse=False)):
                cast = nn.Parameter(parameter.to(dtype), requires_grad=False)
                setattr(module, name, cast)
                pairs.append((cast.data, parameter.data))
    return pairs
