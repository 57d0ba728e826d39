"""Running the command line as a user does; imported by tests of several rooms."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]

# The digits recipe, small enough to run whole in about a minute. AutoAttack takes another.
REDUCED = {
    "stage1.steps": 30,
    "stage1.checkpoint_every": 10,
    "stage2.steps": 30,
    "stage2.checkpoint_every": 10,
    "stage2.contrastive.start_steps": 2,
    "stage2.contrastive.max_steps": 4,
    "sample.num_samples": 60,
    "sample.num_selection": 40,
    "sample.step_candidates": "[2,4]",
    "sample.batch_size": 20,
    "evaluate.extractor_steps": 40,
    "evaluate.robust.attack": "pgd",
    "evaluate.robust.num_images": 4,
    "evaluate.ood.num_images": 50,
    "evaluate.counterfactual.num_images": 64,
    "evaluate.counterfactual.steps": 10,
    "compute.log_every": 5,
}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout."""
        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def error(self) -> str:
        """The one line that refuses bad input."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        (line,) = self.errors
        return line


@dataclass(frozen=True)
class FinishedRun:
    """A finished whole run of the reduced `digits` recipe, AutoAttack included."""

    workdir: Path
    result: Result

    def arguments(self, **changed: object) -> list[str]:
        """Options of the same run, or of one with `changed` settings, in the same workdir."""
        return reduced_arguments(self.workdir, evaluate__robust__attack="autoattack", **changed)

    def artifact(self, stage: str) -> Path:
        (row,) = [row for row in self.result.json["stages"] if row["name"] == stage]
        return Path(row["artifact"])

    @property
    def client(self) -> "MlflowClient":
        from mlflow import MlflowClient  # takes seconds: most tests need none

        return MlflowClient(f"sqlite:///{self.workdir / 'mlflow.db'}")


def copy_project(folder: Path, *below: str) -> None:
    """Copies what git tracks or would track of the project, or of some of its folders."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", *below],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def reduced_arguments(workdir: Path | str, **changed: object) -> list[str]:
    """Options for the reduced recipe; `changed` overrides by names with dots written as __."""
    settings = REDUCED | {name.replace("__", "."): value for name, value in changed.items()}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return ["--pipeline", "digits", "--workdir", str(workdir), *sets]


def run_python(*words: str, timeout: float = 600, cwd: Path = ROOT) -> Result:
    """Runs `python ...` in a process of its own and waits for it."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=timeout, cwd=cwd)
    return Result(done.returncode, done.stdout, done.stderr)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "pipelines" / "run.py"), *arguments]


def wait_for(happened: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """While the process lives; its log is the message when it ends first or nothing happens in 400 s."""
    deadline = time.monotonic() + 400
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def git(folder: Path, *words: str) -> None:
    """Runs git in the folder with a fixed user name."""
    own = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@localhost"]
    subprocess.run([*own, *words], check=True)


def commit_all(folder: Path) -> None:
    """Creates a repository in the folder and commits all of its files."""
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        git(folder, *words)
