"""A run with planted secrets, watched: none of them is anywhere, and nobody outside can reach its servers."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from data.sources.base import SourceError
from pipelines.stages.preprocess import _open_unchanged
from pipelines.stages.report import _shown_setting
from tests.support.planted import ACCESS_KEY, SECRET_KEY
from tests.support.running import commit_all, copy_project, git, reduced_arguments
from tests.support.servers import bucket_of

PLANTED = b"planted-"  # every secret begins with it
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "planted-environment-access",
    "AWS_SECRET_ACCESS_KEY": "planted-environment-secret",
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": "planted-environment-password",
    "MLFLOW_TRACKING_TOKEN": "planted-environment-token",
}


@dataclass
class Watched:
    """What a run said, where it listened, and the folders that it wrote into."""

    code: int
    said: bytes
    folders: tuple[Path, ...]
    listened: set[tuple[str, str]] = field(default_factory=set)  # address, command


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    """Address of a bucket with a tree of images, secrets included."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    bucket = bucket_of(port)
    bucket.create_dir("images")
    for number in range(100):
        with bucket.open_output_stream(f"images/{number % 4}/{number}.png") as out:
            Image.effect_noise((8, 8), 50 + number).save(out, "PNG")
    options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    yield f"s3://{ACCESS_KEY}:{SECRET_KEY}@images?{options}"
    server.stop()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Short: Ray's sockets lie in it, whose paths may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="out-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(place: Path) -> Path:
    """The project, with a secret in its remote's address and another in what is not committed."""
    folder = place / "project"
    copy_project(folder)
    commit_all(folder)
    git(folder, "remote", "add", "origin", "https://me:planted-remote@localhost/project.git")
    with (folder / "README.md").open("a") as file:
        file.write("\npassword = planted-difference\n")
    return folder


@pytest.fixture(scope="module")
def watch(place: Path, checkout: Path, images: str) -> Callable[..., Watched]:
    """Runs the command line on those images until it ends."""

    def run(*words: str) -> Watched:
        ray, said = place / "ray", place / "said"
        changed = {"data__in": images, "stage1__batch_size": 16, "stage2__batch_size": 16}
        command = [sys.executable, str(checkout / "pipelines" / "run.py")]
        with said.open("wb") as out:
            process = subprocess.Popen(
                [*command, *reduced_arguments(place / "runs", **changed), *words],
                env={**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(ray)},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=checkout,
                start_new_session=True,
            )
            watched = Watched(0, b"", (place / "runs", ray))
            while process.poll() is None:
                watched.listened |= listening(process.pid)
                time.sleep(0.2)
        watched.code, watched.said = process.returncode, said.read_bytes()
        return watched

    return run


def listening(session: int) -> set[tuple[str, str]]:
    """Addresses that the processes of a session listen at, and what they are."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session:
                sockets = process.net_connections("inet")
                listens = (socket for socket in sockets if socket.status == psutil.CONN_LISTEN)
                found |= {(socket.laddr.ip, process.name()) for socket in listens}
    return found


def holding(folders: tuple[Path, ...]) -> list[str]:
    """Files with a planted secret in them."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    lines = ((path, line) for path in files for line in path.read_bytes().split(b"\n"))
    return [f"{path}: {line[:200]!r}" for path, line in lines if PLANTED in line]


@pytest.fixture(scope="module")
def whole(watch: Callable[..., Watched]) -> Watched:
    return watch("--until", "train_stage1", "--json")


@pytest.mark.slow
@pytest.mark.ray
def test_no_secret_is_anywhere_after_a_run(whole):
    assert whole.code == 0, whole.said.decode()
    assert PLANTED not in whole.said
    workdir, ray = whole.folders
    assert (workdir / "mlflow.db").stat().st_size
    assert list(ray.rglob("logs/gcs_server.out"))
    assert holding(whole.folders) == []


@pytest.mark.slow
@pytest.mark.ray
def test_every_server_of_a_run_listens_on_the_loopback_interface_alone(whole):
    assert {"gcs_server", "raylet"} <= {command for _, command in whole.listened}
    assert {address.removeprefix("::ffff:") for address, _ in whole.listened} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.ray
def test_no_secret_is_anywhere_after_a_failure(watch):
    failed = watch("--until", "train_stage1", "--set", "stage1.optimizer.lr=1e30", "--set", "seed=1")
    assert failed.code == 1, failed.said.decode()
    assert b"diverged" in failed.said
    assert PLANTED not in failed.said
    assert holding(failed.folders) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--plan"], 0),
        (["--status"], 0),
        (["--tracking-uri", "http://me:planted-tracking@127.0.0.1:1"], 2),
        (["--set", "data.in=s3://me:planted-address@nowhere/?endpoint_override=127.0.0.1:1&scheme=http"], 2),
        (["--set", "model.checkpoint=https://me:planted-address@host/x.pt"], 2),
        (["--plan", "--set", "model.checkpoint=https://me:planted-address@host/x.pt"], 0),
        (["--set", "nothing=https://host/?token=planted-value"], 2),
    ],
    ids=["plan", "status", "tracking", "bucket", "checkpoint", "planned", "unknown"],
)
def test_no_secret_is_said_without_a_run(cli, images, monkeypatch, tmp_path, words, code):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    recipe = ("--pipeline", "digits", "--workdir", str(tmp_path), "--set", f"data.in={images}")
    said = cli(*recipe, *words, "--json")
    assert said.code == code, said.err
    assert "planted-" not in said.out + said.err
    assert holding((tmp_path,)) == []


@pytest.mark.slow
def test_a_sweep_keeps_no_secret(checkout, images, place):
    command = [sys.executable, str(checkout / "sweeps" / "tune_pgd.py"), "--set", f"data.in={images}"]
    done = subprocess.run(
        [*command, "--workdir", str(place / "sweeps")],
        capture_output=True,
        env={**os.environ, **ENVIRONMENT},
        cwd=checkout,
    )
    assert done.returncode == 2
    assert b"error: data.in: s3://***@images?" in done.stderr
    assert b"give secrets in the environment" in done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert holding((place / "sweeps",)) == []


def test_images_that_changed_are_told_without_secrets(images):
    settings = SimpleNamespace(data=SimpleNamespace(root="."))
    context = SimpleNamespace(settings=settings, sources={"data.in": "another"})
    with pytest.raises(SourceError) as caught:
        _open_unchanged(context, "data.in", images)
    assert "planted" not in str(caught.value)


def test_settings_in_a_report_have_no_secrets(images):
    assert "planted" not in _shown_setting(images)
    assert _shown_setting("a folder@home") == "a folder@home"
    assert _shown_setting(0.5) == 0.5
