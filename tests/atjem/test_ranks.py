"""Two and three ranks train as one process does on their joint batch: real processes, gloo, float64."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from atjem.adversarial import AdversarialTraining, ClassifierAttack, DualAdversarialTraining
from atjem.balls import L2
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.jem import JointEnergyTraining, ReplayBuffer, Sgld
from atjem.learner import Learner
from atjem.models.synced_norm import synchronise_norms
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch
from data.stream import rank_part, shares
from tests.support.learning import make_batch, tiny_network
from tests.support.running import ROOT

STEPS, BATCH, KINDS = 20, 7, ("stage1", "dat", "at", "jem")


def make_objective(kind: str):
    attack = ClassifierAttack(L2(0.5), 0.1, 2)
    if kind in ("stage1", "at"):
        return AdversarialTraining(attack, freezes_norm=kind == "at")
    if kind == "jem":
        start = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
        return JointEnergyTraining(Sgld(2, 0.1, 0.01), ReplayBuffer(start, 0.3), 0.02)
    return DualAdversarialTraining(attack, 0.1, r1_weight=0.1)


def train(kind: str, rank: int, world: int) -> dict:
    """Metrics, weights, and what the objective keeps, after some steps."""
    model = tiny_network(dtype=torch.float64)
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
    table, average = shares(BATCH, world, parts), Ema(model, 0.9)
    learner = Learner(
        model, objective, rule, schedule, average, curriculum, shares=table, clip_norm=1.0, ddp=ddp
    )
    own = rank_part(BATCH, rank, world, parts)
    seen = []
    for step in range(STEPS):
        *tensors, _, _ = vars(make_batch(step, size=BATCH, dtype=torch.float64)).values()
        metrics = learner.step(Batch(*(tensor[own] for tensor in tensors), seed=step))
        seen.append({name: value.item() for name, value in metrics.items()})
    return {"seen": seen, "state": learner.state_dict()}


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def ranks(request, tmp_path_factory) -> list[dict[str, dict]]:
    """What each of several ranks ended with, by kind of training."""
    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    command = [sys.executable, "-m", "tests.atjem.test_ranks", str(folder), str(world)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(world)]
    assert [process.wait(timeout=300) for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_one_process_on_a_batch_that_they_do_not_divide(kind, ranks):
    alone = train(kind, 0, 1)
    for other in (rank[kind] for rank in ranks):
        for step, (found, expected) in enumerate(zip(other["seen"], alone["seen"], strict=True)):
            assert found == pytest.approx(expected, rel=1e-9), step
        for part in ("model", "objective"):
            found, expected = other["state"][part], alone["state"][part]
            torch.testing.assert_close(dict(found), dict(expected), rtol=1e-9, atol=1e-12)
        assert other["state"]["curriculum"] == alone["state"]["curriculum"]


if __name__ == "__main__":
    folder, world, rank = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save({kind: train(kind, rank, world) for kind in KINDS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
