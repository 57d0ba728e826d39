"""A small real sweep: two settings, one of which makes training diverge."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.running import ROOT, Result

# A learning rate at which training diverges, and a setting that leaves the trained model alone.
SPACE = """
settings:
  stage2.optimizer.lr: {choices: [0.01, 1.0e+30]}
  sample.step_size: {times: [0.5, 2]}
"""
TRIALS = 4
NAME = "digits-smoke-1"


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    workdir: Path
    result: Result

    @property
    def folder(self) -> Path:
        return self.workdir / "sweeps" / NAME

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=NAME, storage=f"sqlite:///{self.folder / 'study.db'}")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.workdir / 'mlflow.db'}")

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("digits-smoke")
        return list(self.client.search_runs([experiment.experiment_id]))


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "sweeps" / "tune_pgd.py"), *arguments]


def new_sweep(workdir: Path) -> list[str]:
    """The command that starts the sweep."""
    space = workdir / "space.yaml"
    workdir.mkdir(exist_ok=True)
    space.write_text(SPACE)
    return command(
        *("--smoke", "--trials", str(TRIALS), "--space", str(space), "--workdir", str(workdir)),
        *("--set", "evaluate.robust.attack=pgd", "--objective", "frechet_distance:min", "pgd_accuracy:max"),
    )


def run(arguments: list[str]) -> Result:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, cwd=ROOT)
    return Result(done.returncode, done.stdout, done.stderr)


def check_runs(swept: Swept) -> None:
    """MLflow holds the sweep, its trials and their stages, each once and with no point twice."""
    runs = swept.runs()
    [parent] = [run for run in runs if run.data.tags.get("atjem.kind") == "sweep"]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["atjem.trial"] for run in trials) == [f"{NAME}/{n}" for n in range(TRIALS)]
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    stages = [run for run in runs if run.data.tags.get("atjem.stage")]
    assert {run.data.tags["mlflow.parentRunId"] for run in stages} <= {run.info.run_id for run in trials}
    for run in stages:
        for metric in run.data.metrics:
            steps = [point.step for point in swept.client.get_metric_history(run.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (run.info.run_name, metric, steps)
