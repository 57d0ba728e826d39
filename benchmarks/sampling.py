"""Sampling and its figures against the straightforward ways: speed, exactness, memory.

    python benchmarks/sampling.py                    everything: about 25 minutes on 2 CPU cores
    python benchmarks/sampling.py ascent choice      parts of it: ascent, choice, figures, memory

ascent   a plain loop (fp32, NCHW, gradients through parameters that ask for them too) against the sampler's
choice   features at all 7 candidates of one trajectory against the longest candidate alone
figures  samples to FID, IS, KID, precision and recall, against PNGs that FID and then IS read from a folder
memory   peak memory of the sample stage at 1,000 and 10,000 samples

Rounds are interleaved, so that a busy machine slows all alike; figures are medians. Inception's weights are
random and seeded: their values mean nothing, their cost is the same. OMP_WAIT_POLICY=PASSIVE keeps waiting
threads from spinning.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from baseline.folder_metrics import folder_metrics
from baseline.plain_sampling import plain_sampling
from torch import Tensor
from torch_fidelity.utils import create_feature_extractor

from atjem.fidelity import INCEPTION, Reference, extract, fidelity_metrics, make_extractor
from atjem.models.attack_network import AttackNetwork
from atjem.models.registry import JointEnergyModel, ModelSpec, build_model
from atjem.sampling import quantize, sample_at, sample_trajectory
from data.decode import encode_png
from data.shards import Encoded, write_shard
from data.views import to_image
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext, select
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.stages.sampler import features_at

ROOT = Path(__file__).resolve().parents[1]
CANDIDATES = tuple(range(11, 18))
Variants = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"ascent": ascent, "choice": choice, "figures": figures, "memory": memory, "one": one_process}
    parser.add_argument("parts", nargs="*", default=["ascent", "choice", "figures", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num", type=int, default=1000, help="samples that the part 'one' makes")
    options = parser.parse_args()
    for part in options.parts:
        parts[part](options)


def ascent(options: argparse.Namespace) -> None:
    """WRN-16-4 at 32 px, 32 images, 10 steps of the CIFAR recipes' length."""
    model, (x, y) = network("wrn-16-4", 32, 10), batch(32, 32, 10)
    ours = frozen(model)
    slow = network("wrn-16-4", 32, 10)

    def fast(model: JointEnergyModel, x: Tensor) -> Tensor:
        return list(sample_trajectory(model, x, y, step_size=0.2, num_steps=10))[-1]

    timed(
        "10 steps of 32 images, WRN-16-4 at 32 px",
        options.rounds,
        {
            "plain loop, backward()": lambda: plain_sampling(slow, x, y, 0.2, 10, through_parameters=True),
            "plain loop, autograd.grad": lambda: plain_sampling(
                slow, x, y, 0.2, 10, through_parameters=False
            ),
            "ours": lambda: fast(ours, x),
        },
    )
    exact = plain_sampling(slow.double(), x.double(), y, 0.2, 10, through_parameters=False)
    away = (fast(frozen(network("wrn-16-4", 32, 10).double()), x.double()) - exact).abs().max()
    print(f"  same trajectory in float64: largest difference {away:.1e}")
    in_fp32 = plain_sampling(network("wrn-16-4", 32, 10), x, y, 0.2, 10, through_parameters=False)
    share = ((fast(ours, x) - in_fp32).abs() > 1 / 255).double().mean()
    print(f"  in fp32: {share:.2%} of pixels differ by more than 1/255")


def choice(options: argparse.Namespace) -> None:
    """The ImageNet recipe's ResNet-50, 256 px and candidates, 2 images, features included."""
    ours, (x, y) = frozen(network("resnet-50", 256, 1000)), batch(2, 256, 1000)
    extractor = inception()

    def through(at: tuple[int, ...]) -> object:
        images = sample_at(ours, x, y, step_size=8.0, at=at)
        return features_at(extractor, {steps: quantize(x_t) for steps, x_t in images.items()})

    def fresh() -> object:
        return [through((steps,)) for steps in CANDIDATES]

    timed(
        "steps chosen among 11..17, ResNet-50 at 256 px",
        min(3, options.rounds),
        {
            "17 steps alone": lambda: through((17,)),
            "all 7 in one trajectory": lambda: through(CANDIDATES),
            "a fresh run for each": fresh,
        },
    )


def figures(options: argparse.Namespace) -> None:
    """256 samples of 32 px and the features of 256 real images, which both ways have already."""
    generator = torch.Generator().manual_seed(0)
    samples, real = torch.randint(0, 256, (2, 256, 3, 32, 32), dtype=torch.uint8, generator=generator)
    extractor, plain = inception(), inception(plain=True)
    reference = Reference.of(extract(extractor, real.split(64)))

    def streamed() -> object:
        with tempfile.NamedTemporaryFile() as file:
            list(write_shard(file, "samples", map(encoded, range(256), samples)))
            return fidelity_metrics(extract(extractor, samples.split(64)), reference)

    def folders() -> object:
        with tempfile.TemporaryDirectory() as folder:
            return folder_metrics(samples, reference.statistics, plain, Path(folder))

    model, (x, y) = network("wrn-10-1", 32, 10), batch(64, 32, 10)
    ours = frozen(model)

    def sampling() -> object:
        return [list(sample_trajectory(ours, x, y, step_size=0.2, num_steps=33))[-1] for _ in range(4)]

    timed(
        "256 samples of 32 px to their figures",
        min(3, options.rounds),
        {
            "PNGs, then FID and IS of the folder": folders,
            "shard and one pass, all five figures": streamed,
            "(sampling alone: WRN-10-1, 33 steps)": sampling,
        },
    )


def memory(options: argparse.Namespace) -> None:
    for num in (1_000, 10_000):
        command = [sys.executable, str(Path(__file__)), "one", "--num", str(num)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"sample stage, {num:>6,} samples: {done.stdout.strip()}")


def one_process(options: argparse.Namespace) -> None:
    """The whole stage on digits in this process; prints its peak memory beyond what it had at the start."""
    from pipelines.stages import sample

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "pipelines" / "run.py"), "--pipeline", "digits", "--json"]
        command += ["--workdir", folder, "--set", "stage1.steps=5", "--set", "evaluate.extractor_steps=5"]
        made = {}
        for stage in ("train_stage1", "reference_stats"):
            done = subprocess.run([*command, "--until", stage], capture_output=True, text=True, check=True)
            rows = json.loads(done.stdout.splitlines()[-1])["stages"]
            made |= {row["name"]: Path(row["artifact"]) for row in rows if row["artifact"]}
        changes = (f"sample.num_samples={options.num}", "sample.step_candidates=[]", "sample.steps=2")
        settings = load_recipe("digits", changes)[0].settings
        roles = {"data": "preprocess", "model": "train_stage1", "reference": "reference_stats"}
        inputs = {role: made[stage] for role, stage in roles.items()}
        own = Path(folder, "own")
        own.mkdir()
        view = select(settings, build_graph(settings)["sample"].reads)
        context = StageContext(view, inputs, own, Path(folder, "parts"), Silent(), {}, run_workers, spread)
        sample.run(context)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at its peak")


def timed(title: str, rounds: int, variants: Variants) -> None:
    """Each variant once a round, in turn; the first is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    first = next(iter(medians.values()))
    print(f"{title}; {torch.get_num_threads()} threads, medians of {rounds} interleaved rounds")
    for name, taken in medians.items():
        print(f"  {name:<38}{taken:>8.3f} s   {taken / first:>5.2f} of the first, {first / taken:>5.2f}x")


def network(arch: str, image_size: int, num_classes: int) -> JointEnergyModel:
    torch.manual_seed(0)
    mean, std = (0.5,) * 3, (0.25,) * 3
    return build_model(ModelSpec(arch, num_classes, 3, image_size, mean, std)).eval()


def frozen(model: JointEnergyModel) -> JointEnergyModel:
    """As the sample stage holds it."""
    return AttackNetwork(model.to(memory_format=torch.channels_last)).network


def batch(num: int, image_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num, 3, image_size, image_size, generator=generator), torch.arange(num) % num_classes


def inception(*, plain: bool = False) -> Any:
    """Inception with random weights: ours, or `plain`, as torch-fidelity has it."""
    layers = ["2048", "logits_unbiased"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "weights.pth"))
        torch.manual_seed(0)
        torch.save({name: _random(name, shape) for name, shape in _inception_shapes().items()}, path)
        if plain:
            return create_feature_extractor(
                INCEPTION, layers, cuda=False, verbose=False, feature_extractor_weights_path=path
            )
        return make_extractor(INCEPTION, path, torch.device("cpu"))


def _inception_shapes() -> dict[str, torch.Size]:
    """torch-fidelity builds the network and then loads weights; here it loads none."""
    with patch.object(torch.nn.Module, "load_state_dict"), patch.object(torch, "load"):
        network = create_feature_extractor(
            INCEPTION, ["2048"], cuda=False, verbose=False, feature_extractor_weights_path="none"
        )
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _random(name: str, shape: torch.Size) -> Tensor:
    """As large as the next layer needs it (He et al. 2015); means near 0, scales near 1."""
    if not shape:
        return torch.tensor(0)
    noise = torch.randn(shape)
    if len(shape) > 1:
        return noise * (2 / noise[0].numel()) ** 0.5
    return 0.1 * noise + name.endswith(("weight", "running_var"))


def encoded(index: int, pixels: Tensor) -> Encoded:
    return Encoded(f"{index:08d}", encode_png(to_image(pixels)), 0, "", "samples", 32, 32, "")


if __name__ == "__main__":
    main()
