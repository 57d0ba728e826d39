"""Two ranks train as one process does on their joint batch: real processes, gloo, float64, both stages."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.running import ROOT

STEPS, BATCH = 20, 8
WORKER = """
import sys, torch, torch.distributed as dist
from tests.atjem.test_ranks import train
rank, world = int(sys.argv[2]), int(sys.argv[3])
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[4]}/meet", rank=rank, world_size=world)
result = train(sys.argv[1], rank, world)
torch.save(result, f"{sys.argv[4]}/{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


def make_objective(kind: str):
    from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
    from atjem.balls import L2
    from atjem.jem import JointEnergyTraining, ReplayBuffer, Sgld

    attack = ClassifierAttack(L2(0.5), 0.1, 2)
    if kind in ("stage1", "at"):
        return AdversarialTraining(attack, freezes_norm=kind == "at")
    if kind == "jem":
        buffer = ReplayBuffer(
            torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double(), 0.3
        )
        return JointEnergyTraining(Sgld(2, 0.1, 0.01), buffer, 0.02)
    return DualAdversarialTraining(attack, 0.1, r1_weight=0.1)


def train(kind: str, rank: int, world: int) -> dict:
    """Losses, watched values, weights, and what the objective keeps, after some steps."""
    from torch.nn.parallel import DistributedDataParallel

    from atjem.curriculum import Curriculum
    from atjem.ema import Ema
    from atjem.learner import Learner
    from atjem.models.registry import ModelSpec, build_model
    from atjem.models.synced_norm import synchronise_norms
    from atjem.optim import make_optimizer, make_schedule
    from atjem.training_objective import Batch
    from data.stream import rank_part

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(ModelSpec("wrn-10-1", 4, 1, 8, (0.5,), (0.25,))).double()
    rule = make_optimizer(
        model.parameters(), name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4, betas=(0.9, 0.95)
    )
    schedule = make_schedule(rule, schedule="constant", warmup_steps=0, total_steps=STEPS)
    objective = make_objective(kind)
    curriculum = Curriculum(1, 5, 0.5, 1) if kind == "dat" else None
    if world > 1:
        synchronise_norms(model)
    ddp = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else None
    parts = 2 if kind == "stage1" else 1  # statistics belong to micro-batches
    average = Ema(model, 0.9)
    learner = Learner(
        model, objective, rule, schedule, average, curriculum, accumulate=parts, clip_norm=1.0, ddp=ddp
    )
    own = rank_part(BATCH, rank, world, parts)
    seen = []
    for step in range(STEPS):
        rng = torch.Generator().manual_seed(step)
        x, x_real, x_seed = (torch.rand(BATCH, 1, 8, 8, generator=rng, dtype=torch.float64) for _ in range(3))
        y, y_real = (torch.randint(4, (BATCH,), generator=rng) for _ in range(2))
        metrics = learner.step(Batch(x[own], y[own], x_real[own], y_real[own], x_seed[own], seed=step))
        seen.append({name: value.item() for name, value in metrics.items()})
    return {"seen": seen, "state": learner.state_dict()}


def run(kind: str, world: int, folder: Path) -> list[dict]:
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                kind,
                str(rank),
                str(world),
                str(folder),
            ],
            cwd=ROOT,
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize("kind", ["stage1", "dat", "at", "jem"])
def test_two_ranks_are_one_process(kind, tmp_path):
    alone = train(kind, 0, 1)
    pair = run(kind, 2, tmp_path / "pair")
    for other in pair:
        for step, (found, expected) in enumerate(zip(other["seen"], alone["seen"], strict=True)):
            assert found == pytest.approx(expected, rel=1e-9), step
        for name, tensor in alone["state"]["model"].items():
            torch.testing.assert_close(other["state"]["model"][name], tensor, rtol=1e-9, atol=1e-12)
        for name, tensor in alone["state"]["objective"].items():
            torch.testing.assert_close(other["state"]["objective"][name], tensor, rtol=1e-9, atol=1e-12)
        assert other["state"]["curriculum"] == alone["state"]["curriculum"]
