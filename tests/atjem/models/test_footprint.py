"""What networks weigh, counted on tensors without values; run as a program, this prints the table.

CUDA's autocast is counted without a GPU: fake CUDA tensors go through the same casts.
"""

import sys
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from atjem.models.attack_network import AttackNetwork
from atjem.models.footprint import SIZED, evaluation_bytes, fitting_batch, footprint, training_bytes
from atjem.models.precision import autocast
from atjem.models.registry import ModelSpec, build_model

WRNS = ["wrn-10-1", "wrn-16-4", "wrn-28-10", "wrn-34-10"]
KINDS = ["attack", "update", "recompute"]


def spec_of(arch: str, num_classes: int = 1000, channels: int = 3) -> ModelSpec:
    half, is_small = (0.5,) * channels, arch.startswith("wrn-") and arch != "wrn-50-4"
    return ModelSpec(arch, num_classes, channels, 32 if is_small else 256, half, half)


def meta_model(arch: str, **changed: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(spec_of(arch, **changed)).eval()


@contextmanager
def cuda_autocast_without_a_gpu():
    """torch.autocast turns itself off where no GPU is; what it casts does not need one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        yield


def filled(model: nn.Module, device: str) -> nn.Module:
    """The meta model with fake tensors of `device`; to be called in a FakeTensorMode."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device=device))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return model


def prepared(model: nn.Module, kind: str, precision: str) -> nn.Module:
    model.backbone.recompute = kind == "recompute"
    cast = torch.bfloat16 if precision == "bf16" else None
    return AttackNetwork(model, cast).network if kind == "attack" else model


class Saved:
    """Bytes that a forward pass keeps for the backward one, weights apart."""

    def __init__(self, *models: nn.Module) -> None:
        tensors = [tensor for model in models for tensor in model.state_dict(keep_vars=True).values()]
        self.weights = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.kept: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.kept[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())


def saved_bytes(arch: str, kind: str, precision: str, num: int) -> tuple[int, list[int]]:
    """Of `num` images: all that is saved, and what each block saves."""
    model = meta_model(arch)
    with cuda_autocast_without_a_gpu(), FakeTensorMode():
        net = prepared(filled(model, "cuda"), kind, precision)
        saved, blocks, before = Saved(model, net), [], {}
        for module in net.modules():
            if type(module).__name__ in ("BasicBlock", "Bottleneck", "ConvNeXtBlock"):
                module.register_forward_pre_hook(lambda module, _: before.update({module: saved.bytes}))
                module.register_forward_hook(lambda module, *_: blocks.append(saved.bytes - before[module]))
        x = torch.empty(shape_of(net, num), device="cuda", requires_grad=kind == "attack")
        with (
            torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor),
            autocast(precision, "cuda"),
        ):
            net(x)
    return saved.bytes, blocks


def shape_of(model: nn.Module, num: int) -> tuple[int, ...]:
    return (num, 3, model.spec.image_size, model.spec.image_size)


def bytes_of_an_image(arch: str, kind: str, precision: str) -> float:
    """By difference, since casts of weights are kept once whatever the batch."""
    (two, _), (four, _) = (saved_bytes(arch, kind, precision, num) for num in (2, 4))
    if kind == "recompute":
        blocks = [saved_bytes(arch, "update", precision, num)[1] for num in (2, 4)]
        largest = max(more - less for less, more in zip(*blocks, strict=True))
        return (four - two + largest) / 2
    return (four - two) / 2


def counted_flops(arch: str) -> int:
    model = meta_model(arch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(shape_of(model, 1), device="meta"))
    return counter.get_total_flops()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def own(arch: str, precision: str = "fp32", **changed: int):
    shape = {"num_classes": 1000, "channels": 3, "image_size": spec_of(arch).image_size} | changed
    return footprint(arch, precision=precision, **shape)


def some_slow(*quick: str, slow: tuple[str, ...]) -> pytest.MarkDecorator:
    """Networks, those whose passes take seconds in the slow suite."""
    return pytest.mark.parametrize(
        "arch", [*quick, *(pytest.param(arch, marks=pytest.mark.slow) for arch in slow)]
    )


LARGE = tuple(arch for arch in SIZED if arch.startswith("convnext") and not arch.startswith("convnext-tiny"))


@some_slow(*WRNS, *(arch for arch in SIZED if arch not in LARGE), slow=LARGE)
def test_parameters_and_flops_are_the_counted_ones(arch):
    assert own(arch).parameters == num_parameters(meta_model(arch))
    assert own(arch).flops == pytest.approx(counted_flops(arch), rel=0.01)
    other = own(arch, num_classes=7, channels=1)
    assert other.parameters == num_parameters(meta_model(arch, num_classes=7, channels=1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
@some_slow("wrn-16-4", "resnet-18", slow=("wrn-28-10", "resnet-50", "convnext-tiny", "convnext-large-cvst"))
def test_saved_activations_are_the_counted_ones(arch, kind, precision):
    found = getattr(own(arch, precision), kind)
    assert found == pytest.approx(bytes_of_an_image(arch, kind, precision), rel=0.05)


def test_size_of_the_image_scales_the_work():
    large, small = own("resnet-50"), own("resnet-50", image_size=128)
    assert large.flops == pytest.approx(4 * small.flops, rel=0.01)
    assert large.update == 4 * small.update
    assert large.parameters == small.parameters


class Peak(TorchDispatchMode):
    """The most bytes alive at once among the tensors made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                self._born(tensor.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def peak_bytes(arch: str, kind: str, num: int) -> int:
    """Of forward and backward in fp32, beside the weights that were there before."""
    model = meta_model(arch)
    with FakeTensorMode():
        net = prepared(filled(model, "cpu"), kind, "fp32")
        x = torch.empty(shape_of(model, num), requires_grad=kind == "attack")
        with Peak() as peak:
            loss = net(x).logsumexp(1).sum()
            torch.autograd.grad(loss, x) if kind == "attack" else loss.backward()
    return peak.most


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@some_slow("wrn-16-4", slow=("resnet-50", "convnext-tiny-cvst"))
def test_estimate_is_near_the_peak(arch, recompute):
    num, parameters = 16, own(arch).parameters
    shape = {"num_classes": 1000, "channels": 3, "image_size": spec_of(arch).image_size}
    estimate = training_bytes(
        arch, **shape, precision="fp32", attacked=2 * num, updated=3 * num, moments=2, recompute=recompute
    )
    update = peak_bytes(arch, "recompute" if recompute else "update", 3 * num)
    attack = peak_bytes(arch, "attack", 2 * num)
    standing = 4 * parameters * (1 + 2 + 1)  # weights, moments, average; gradients are made inside
    # On the safe side: when the largest block is computed again, others' inputs are no longer needed.
    assert 1 < estimate / (standing + max(update, attack)) < (1.5 if recompute else 1.3)


@some_slow("wrn-16-4", slow=("resnet-50", "convnext-tiny-cvst"))
def test_estimate_of_an_evaluation_is_near_the_peak(arch):
    shape = {"num_classes": 1000, "channels": 3, "image_size": spec_of(arch).image_size, "precision": "fp32"}
    estimate = evaluation_bytes(arch, **shape, images=16)
    assert 1 < estimate / (4 * own(arch).parameters + peak_bytes(arch, "attack", 16)) < 1.3
    assert fitting_batch(arch, **shape, memory=1.001 * estimate, most=100) == 16
    assert fitting_batch(arch, **shape, memory=1.0, most=100) == 1
    assert fitting_batch(arch, **shape, memory=float("inf"), most=100) == 100


def test_largest_recipe_fits_80_gb():
    shape = {"num_classes": 1000, "channels": 3, "image_size": 256, "precision": "bf16"}
    sizes = {"attacked": 2 * 64, "updated": 3 * 64, "moments": 2}
    assert training_bytes("convnext-large-cvst", **shape, **sizes, recompute=True) < 40e9
    assert training_bytes("convnext-large-cvst", **shape, **sizes, recompute=False) < 80e9


def table() -> str:
    lines = []
    for arch in SIZED:
        model = meta_model(arch)
        stem = (num_parameters(model) - num_parameters(meta_model(arch, channels=1))) // 2
        figures = num_parameters(model), model.backbone.fc.in_features, stem, counted_flops(arch) / 1e9
        kept = [
            tuple(round(bytes_of_an_image(arch, kind, precision) / 1e6, 1) for kind in KINDS)
            for precision in ("fp32", "bf16")
        ]
        lines.append('    "{}": ({:_}, {}, {}, {:.2f}, {}, {}),'.format(arch, *figures, *kept))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
