"""What one pass of a network asks of a device, operation by operation, counted on tensors without values."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.attacks import Ascent, pgd_together
from atjem.balls import L2, Unbounded
from atjem.models.attack_network import AttackNetwork
from atjem.models.footprint import footprint
from atjem.models.registry import JointEnergyModel, ModelSpec, build_model
from atjem.objectives import joint
from atjem.training_objective import Batch, Networks

_ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias"}


@dataclass(frozen=True)
class Operation:
    """One launch: FLOP and bytes moved (inputs read, outputs written), an image's and those of any batch."""

    flops: float
    bytes_of_image: float
    bytes_fixed: float


@dataclass(frozen=True)
class Work:
    """What a training step consists of.

    attack: one ascent step of one batch; update: forward, losses and backward of three image sets, counted
    for an image of the batch; refresh: of the attack's twin, once a step.
    """

    parameters: int
    attack: list[Operation]
    update: list[Operation]
    refresh: list[Operation]


def count_step(arch: str, image_size: int, num_classes: int = 1000, precision: str = "fp32") -> Work:
    """Of stage 2 (DAT) with frozen normalisation. Under bf16 bytes shrink as the activations kept do."""
    model = _network(arch, image_size, num_classes)
    twin = AttackNetwork(model)
    idle = ClassifierAttack(L2(3.0), 1.0, 0)
    objective, networks = DualAdversarialTraining(idle, 1.0), Networks(model, model, twin.network)

    def attack(num: int) -> None:
        x, y = _images(num, image_size, num_classes)
        pgd_together(twin.network, [Ascent(x, y, joint, Unbounded(), 1.0, 1)])

    def update(num: int) -> None:
        x, y = _images(num, image_size, num_classes)
        objective.terms(networks, Batch(x, y, x, y, x), 0).loss.backward()
        model.zero_grad(set_to_none=True)

    shrunk = {kind: _shrinkage(arch, kind, precision) for kind in ("attack", "update")}
    return Work(
        sum(parameter.numel() for parameter in model.parameters()),
        _operations(attack, shrunk["attack"]),
        _operations(update, shrunk["update"]),
        [Operation(0, 0, moved) for _, moved in trace(twin.refresh)],
    )


def count_plain_training(arch: str, image_size: int, precision: str) -> list[Operation]:
    """Forward and backward of ordinary training with batch statistics, to compare with published rates."""
    model = _network(arch, image_size, 1000).train()
    objective, networks = AdversarialTraining(None), Networks(model, model, model)

    def train(num: int) -> None:
        objective.terms(networks, Batch(*_images(num, image_size, 1000)), 0).loss.backward()
        model.zero_grad(set_to_none=True)

    return _operations(train, _shrinkage(arch, "update", precision))


def total_flops(operations: list[Operation]) -> float:
    """Of one image."""
    return math.fsum(operation.flops for operation in operations)


def _network(arch: str, image_size: int, num_classes: int) -> JointEnergyModel:
    half = (0.5, 0.5, 0.5)
    with torch.device("meta"):
        return build_model(ModelSpec(arch, num_classes, 3, image_size, half, half)).eval()


def _images(num: int, image_size: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.empty(num, 3, image_size, image_size, device="meta")
    return x, torch.empty(num, dtype=torch.int64, device="meta")


def _shrinkage(arch: str, kind: str, precision: str) -> float:
    shape = {"num_classes": 1000, "channels": 3, "image_size": 256}
    own, full = (getattr(footprint(arch, precision=name, **shape), kind) for name in (precision, "fp32"))
    return float(own / full)


def _operations(run: Callable[[int], None], shrinkage: float) -> list[Operation]:
    """From two sizes of a batch, since what does not grow with it is moved once."""
    two, four = trace(lambda: run(2)), trace(lambda: run(4))
    found = []
    for (flops, less), (_, more) in zip(two, four, strict=True):
        image = (more - less) / 2
        found.append(Operation(flops / 2, shrinkage * image, shrinkage * (less - 2 * image)))
    return found


def trace(run: Callable[[], None]) -> list[tuple[float, float]]:
    with _Tracer() as tracer:
        run()
    return tracer.seen


@dataclass
class _Tracer(TorchDispatchMode):
    """(FLOP, bytes) of every operation that a device would be given, views and allocations left out."""

    seen: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if not function.is_view and packet.__name__ not in _ALLOCATES:
            written = _tensors(out if isinstance(out, tuple | list) else (out,))
            moved = sum(map(_bytes, [*_tensors(args), *written]))
            if packet.__name__ == "convolution_backward":
                self.seen += _convolution_backward(*args[:3], out, moved)
            else:
                count = flop_registry.get(packet)
                self.seen.append((count(*args, **(kwargs or {}), out_val=out) if count else 0, moved))
        return out


def _convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, out: Any, moved: int
) -> list[tuple[float, float]]:
    """A launch for each gradient; torch's own count of the weight's is wrong for grouped convolutions."""
    written = _tensors(out)
    flops = 2.0 * grad.numel() * weight[0].numel()
    return [(0 if tensor.dim() == 1 else flops, moved / len(written)) for tensor in written]


def _tensors(values: Any) -> list[torch.Tensor]:
    """One level of lists deep, which is how `cat` and the foreach family are called."""
    flat = [inner for value in values for inner in (value if isinstance(value, tuple | list) else (value,))]
    return [value for value in flat if isinstance(value, torch.Tensor)]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
