"""Exponential moving average of the weights, with the published warm-up."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def ema_decay(num_updates: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)) after n updates: young averages forget their start quickly."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class Ema(Generic[Model]):
    """An averaged copy of a model, buffers (running statistics) included; `module` is the model to use.

    The first update takes the weights as they are. Nothing waits for the device: updates are counted here.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)
        self.decay, self.num_updates = decay, 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Averages the model's present weights in; counters are copied."""
        averaged, current = list(self.module.state_dict().values()), list(model.state_dict().values())
        floats = [index for index, tensor in enumerate(averaged) if tensor.is_floating_point()]
        if self.num_updates == 0:
            torch._foreach_copy_(averaged, current)
        else:
            weight = 1 - ema_decay(self.num_updates, self.decay)
            torch._foreach_lerp_(_pick(averaged, floats), _pick(current, floats), weight)
            counters = [index for index in range(len(averaged)) if index not in set(floats)]
            if counters:
                torch._foreach_copy_(_pick(averaged, counters), _pick(current, counters))
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.num_updates = state["num_updates"]


def _pick(tensors: list[Tensor], indices: list[int]) -> list[Tensor]:
    return [tensors[index] for index in indices]
