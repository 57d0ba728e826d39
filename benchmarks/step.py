"""One optimiser step of stage 2 against the straightforward one, and how far it is from the floor.

    python benchmarks/step.py                     WRN-16-4 at 32 px, batch 32, T = 10 and 30: about 10 minutes
    python benchmarks/step.py --compile           with torch.compile as well (minutes of compiling)
    python benchmarks/step.py --device cuda --arch wrn-34-10 --batch 128 --steps 30 --precision bf16 --compile
    python benchmarks/step.py --arch wrn-10-1 --image-size 16 --batch 128 --steps 15 --attack-steps 7

Every round times each variant once, in turn, so that a busy machine slows all alike. Figures are medians over
the rounds; CPU seconds are this process's, over all threads. OMP_WAIT_POLICY=PASSIVE keeps waiting threads
from spinning.

The floor is the arithmetic that the method asks for (attacks: forward and the images' gradient; update:
forward and both gradients, of three sets of images) at the best rate that one of the network's convolutions
reaches alone. On a GPU, model FLOP utilisation is the same arithmetic against a large matrix product's rate.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from baseline.straightforward import Straightforward
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.attacks import Ascent, pgd_together
from atjem.balls import L2, Unbounded
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.jem import JointEnergyTraining, ReplayBuffer, Sgld
from atjem.learner import Learner, compile_network
from atjem.models.attack_network import AttackNetwork
from atjem.models.precision import allow_tf32, autocast
from atjem.models.registry import JointEnergyModel, ModelSpec, build_model
from atjem.objectives import cross_entropy, joint
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch, Objective
from pipelines.settings import Sgld as SgldSettings

STEP_SIZE, EPS = 0.1, 0.5
OPTIMIZER = {"name": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "betas": (0.9, 0.95)}
Variants = dict[str, Callable[[], object]]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    allow_tf32(options.precision)
    on = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    print(
        f"{options.arch} at {options.image_size} px, batch {options.batch}, {options.precision}, {on}, ",
        end="",
    )
    print(f"torch {torch.__version__}, medians of {options.rounds} interleaved rounds")
    peak = convolution_peak(options)
    matmul = matmul_peak(options) if options.device == "cuda" else None
    for num_steps in options.steps:
        seconds = table(f"step, T = {num_steps}", step_variants(options, num_steps), options)
        flops = step_flops(options, num_steps)
        print(f"floor {flops / peak:.3f} s: {flops / 1e9:.0f} GFLOP at {peak / 1e9:.0f} GFLOP/s")
        for name, taken in seconds.items():
            used = f", {flops / taken / matmul:.0%} of the matmul peak" if matmul else ""
            print(f"  {name:<34}{taken * peak / flops:>9.2f} x the floor{used}")
        table(f"step of each objective, T = {num_steps}", objective_variants(options, num_steps), options)
    table("one contrastive attack step", attack_variants(options), options)
    table("both attacks, 10 steps each", pair_variants(options), options)
    table("forward and backward of the update", update_variants(options), options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="wrn-16-4")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30], help="values of T")
    parser.add_argument("--attack-steps", type=int, default=10, help="of the classifier's attack")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def network(options: argparse.Namespace) -> JointEnergyModel:
    torch.manual_seed(0)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return build_model(ModelSpec(options.arch, options.num_classes, 3, options.image_size, mean, std)).eval()


def ours(options: argparse.Namespace) -> JointEnergyModel:
    return network(options).to(options.device, memory_format=torch.channels_last)


def make_batch(options: argparse.Namespace) -> Batch:
    rng = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.image_size, options.image_size)
    x, x_real, x_seed = (torch.rand(shape, generator=rng).to(options.device) for _ in range(3))
    y, y_real = (
        torch.randint(options.num_classes, shape[:1], generator=rng).to(options.device) for _ in range(2)
    )
    return Batch(x, y, x_real, y_real, x_seed, seed=0)


def step_variants(options: argparse.Namespace, num_steps: int) -> Variants:
    batch = make_batch(options)
    slow = baseline(options)

    def in_precision() -> object:
        with autocast(options.precision, options.device):
            return slow.step(batch, num_steps)

    variants: Variants = {"straightforward": lambda: slow.step(batch, num_steps)}
    if options.precision == "bf16":
        variants["straightforward, bf16"] = in_precision
    variants["ours"] = stepper(options, dual(options), num_steps, compiled=False)
    if options.compile:
        variants["ours, compiled"] = stepper(options, dual(options), num_steps, compiled=True)
    return variants


def objective_variants(options: argparse.Namespace, num_steps: int) -> Variants:
    sgld = SgldSettings()
    shape, rng = make_batch(options).x.shape[1:], torch.Generator().manual_seed(0)
    buffer = ReplayBuffer.of_noise(sgld.buffer_size, tuple(shape), sgld.reinit, rng)
    sampler = Sgld(sgld.steps, sgld.step_size, sgld.noise)
    objectives = {
        "dat": dual(options),
        "at": AdversarialTraining(attack(options), freezes_norm=True),
        f"jem, {sgld.steps} steps of SGLD": JointEnergyTraining(sampler, buffer, sgld.input_noise),
    }
    return {name: stepper(options, own, num_steps, compiled=False) for name, own in objectives.items()}


def attack(options: argparse.Namespace) -> ClassifierAttack:
    return ClassifierAttack(L2(EPS), STEP_SIZE, options.attack_steps)


def dual(options: argparse.Namespace) -> DualAdversarialTraining:
    return DualAdversarialTraining(attack(options), STEP_SIZE)


def baseline(options: argparse.Namespace) -> Straightforward:
    model = network(options).to(options.device)
    rule = make_optimizer(model.parameters(), **OPTIMIZER)
    return Straightforward(model, copy.deepcopy(model), rule, EPS, STEP_SIZE, options.attack_steps, STEP_SIZE)


def stepper(
    options: argparse.Namespace, objective: Objective, num_steps: int, *, compiled: bool
) -> Callable[[], object]:
    model, batch = ours(options), make_batch(options)
    rule = make_optimizer(model.parameters(), **OPTIMIZER)
    schedule = make_schedule(rule, schedule="constant", warmup_steps=0, total_steps=1)
    curriculum = Curriculum(num_steps, max_steps=num_steps, threshold=1.0, window=9)
    learner = Learner(
        model,
        objective,
        rule,
        schedule,
        Ema(model, 0.999),
        curriculum,
        precision=options.precision,
        compiled=compiled,
    )
    return lambda: learner.step(batch)


def attack_variants(options: argparse.Namespace) -> Variants:
    batch, slow = make_batch(options), baseline(options)
    assert batch.x_seed is not None
    nets = {
        "ours": AttackNetwork(ours(options), cast(options)).network,
        "ours, NCHW": AttackNetwork(network(options).to(options.device), cast(options)).network,
        "ours, norms not folded": ours(options).requires_grad_(False),
    }
    if options.compile:
        nets["ours, compiled"] = compile_network(nets["ours"], replay=True)
    variants: Variants = {
        "straightforward": lambda: slow.contrastive_attack(batch.x_seed, batch.y, 1)  # type: ignore[arg-type]
    }
    return variants | {name: lambda net=net: climb(options, net, batch, 0, 1) for name, net in nets.items()}


def pair_variants(options: argparse.Namespace) -> Variants:
    batch, net = make_batch(options), AttackNetwork(ours(options), cast(options)).network

    def one_after_the_other() -> None:
        climb(options, net, batch, 10, 0)
        climb(options, net, batch, 0, 10)

    return {
        "one after the other": one_after_the_other,
        "together (ours)": lambda: climb(options, net, batch, 10, 10),
    }


def update_variants(options: argparse.Namespace) -> Variants:
    batch = make_batch(options)
    x = torch.cat([batch.x, batch.x_real, batch.x_seed])  # type: ignore[list-item]

    def backward(model: nn.Module, parts: int) -> None:
        with autocast(options.precision, options.device):
            logits = torch.cat([model(part) for part in x.chunk(parts)])
            loss = logits.logsumexp(1).mean()
        loss.backward()

    plain, fast = network(options).to(options.device), ours(options)
    return {
        "three forwards, NCHW": lambda: backward(plain, 3),
        "three forwards": lambda: backward(fast, 3),
        "one forward (ours)": lambda: backward(fast, 1),
    }


def climb(options: argparse.Namespace, net: nn.Module, batch: Batch, clf_steps: int, num_steps: int) -> None:
    assert batch.x_seed is not None
    ascents = [
        Ascent(batch.x, batch.y, cross_entropy, L2(EPS), STEP_SIZE, clf_steps),
        Ascent(batch.x_seed, batch.y, joint, Unbounded(), STEP_SIZE, num_steps),
    ]
    with autocast(options.precision, options.device):
        pgd_together(net, ascents)


def cast(options: argparse.Namespace) -> torch.dtype | None:
    return torch.bfloat16 if options.precision == "bf16" else None


def table(title: str, variants: Variants, options: argparse.Namespace) -> dict[str, float]:
    """Times the variants in turn and prints them; the first one is what the others are compared with."""
    for run in variants.values():
        timed(run, options)  # warm-up, and compiling
    taken = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, run in variants.items():
            taken[name].append(timed(run, options))
    print(f"\n{title:<36}{'wall s':>10}{'CPU s':>10}{'against':>10}")
    first = statistics.median(wall for wall, _ in next(iter(taken.values())))
    seconds = {}
    for name, pairs in taken.items():
        seconds[name] = statistics.median(wall for wall, _ in pairs)
        cpu = statistics.median(cpu for _, cpu in pairs)
        print(f"  {name:<34}{seconds[name]:>10.3f}{cpu:>10.3f}{first / seconds[name]:>9.2f}x", flush=True)
    return seconds


def timed(run: Callable[[], object], options: argparse.Namespace) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def step_flops(options: argparse.Namespace, num_steps: int) -> float:
    """Attacks: forward and the images' gradient. Update: forward and both gradients of three image sets."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(options)(torch.empty(1, 3, options.image_size, options.image_size))
    forward = counter.get_total_flops()
    return options.batch * forward * (2 * (options.attack_steps + num_steps) + 3 * 3)


def convolution_peak(options: argparse.Namespace) -> float:
    """FLOP/s of the fastest of the network's convolutions, alone and warm."""
    best = 0.0
    model = ours(options)
    with torch.no_grad(), autocast(options.precision, options.device):
        for conv, x in convolutions(model, make_batch(options).x):
            weight = conv.weight.to(x.dtype)

            def run(conv: nn.Conv2d = conv, x: Tensor = x, weight: Tensor = weight) -> object:
                return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)

            seconds = min(timed(run, options)[0] for _ in range(8))
            out = run()
            assert isinstance(out, Tensor)
            best = max(best, 2 * out.numel() * weight[0].numel() / seconds)
    return best


def matmul_peak(options: argparse.Namespace) -> float:
    """FLOP/s of a square matrix product in the benchmark's precision, alone and warm."""
    size = 8192 if options.device == "cuda" else 2048
    a = torch.randn(size, size, device=options.device, dtype=cast(options) or torch.float32)
    return 2 * size**3 / min(timed(lambda: a @ a, options)[0] for _ in range(8))


def convolutions(model: nn.Module, x: Tensor) -> Iterator[tuple[nn.Conv2d, Tensor]]:
    """Each convolution with the input that it gets, one of a shape."""
    seen: dict[tuple[object, ...], tuple[nn.Conv2d, Tensor]] = {}

    def remember(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, nn.Conv2d)
        seen[(conv.weight.shape, inputs[0].shape)] = (conv, inputs[0])

    hooks = [
        module.register_forward_pre_hook(remember)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    yield from seen.values()


if __name__ == "__main__":
    main()
