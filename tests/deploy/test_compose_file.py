"""deploy/docker-compose.yaml: its schema, what a review would ask for, and a rehearsal.

The rehearsal runs the file's own MLflow command, bucket script and health check, with its own environment,
against a real PostgreSQL and a simulated S3 on 127.0.0.1: everything but the containers around them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from mlflow import MlflowClient

from tests.support.deployed import DEPLOY, read_yaml, texts
from tests.support.running import ROOT
from tests.support.servers import free_port, no_postgres, postgres, served, simulated_aws

FILE = read_yaml("docker-compose.yaml")
SERVICES = FILE["services"]
SECRET_NAMES = re.compile(r"PASSWORD|SECRET|ACCESS_KEY")


def _schema_check(path: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_schema():
    done = _schema_check(DEPLOY / "docker-compose.yaml")
    assert done.returncode == 0, done.stdout


def test_schema_would_see_a_misspelt_key(tmp_path):
    broken = tmp_path / "docker-compose.yaml"
    text = (DEPLOY / "docker-compose.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace("    healthcheck:", "    healtcheck:", 1))
    assert "healtcheck" in _schema_check(broken).stdout


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_images_are_pinned_ports_on_loopback_and_secrets_outside(service):
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name, value in service["environment"].items():
        if SECRET_NAMES.search(name):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_watched_and_waited_for(name):
    """Every one that stays has a health check; whoever needs another waits until that one is well."""
    one_shot = {
        other
        for service in SERVICES.values()
        for other, wish in service.get("depends_on", {}).items()
        if wish["condition"] == "service_completed_successfully"
    }
    assert name in one_shot or "test" in SERVICES[name]["healthcheck"]
    conditions = SERVICES[name].get("depends_on", {})
    assert conditions.keys() <= SERVICES.keys()
    assert all(
        (wish["condition"] == "service_healthy") is (other not in one_shot)
        for other, wish in conditions.items()
    )


def test_volumes_are_named_and_declared():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == FILE["volumes"].keys()


def test_variables_are_those_of_the_example():
    used = {name for text in texts(FILE) for name in re.findall(r"\$\{(\w+)", text)}
    lines = (DEPLOY / "env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given.keys() == used
    assert not any(value for name, value in given.items() if SECRET_NAMES.search(name))
    done = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "--quiet", "deploy/.env"])
    assert done.returncode in (0, 128)  # 128: not a checkout


def test_built_target_exists():
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    stages = re.findall(r"^FROM \S+ AS (\w+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert targets == {"tracking"} <= set(stages)


@dataclass(frozen=True)
class Rehearsal:
    """Addresses of MLflow's server and of the store, and the health check's Python."""

    address: str
    store: str
    health_check: str


SECRETS = {"POSTGRES_PASSWORD": "p@ss/word?", "S3_ACCESS_KEY": "simulated", "S3_SECRET_KEY": "simulated"}


def _here(text: str, values: dict[str, str]) -> str:
    """A string of the file with variables filled in, as Compose does, and addresses on this machine."""
    text = re.sub(r"\$\{(\w+):\?[^}]+\}", lambda match: values[match[1]], text)
    for address in ("postgres:5432", "store:7070", "127.0.0.1:5000", "--host=0.0.0.0", "--port=5000"):
        text = text.replace(address, values.get(address, address))
    return text


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Iterator[Rehearsal]:
    if reason := no_postgres():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("rehearsal")
    place = {"user": "mlflow", "password": SECRETS["POSTGRES_PASSWORD"], "database": "mlflow"}
    port = free_port()
    with simulated_aws(folder / "moto.log") as store, postgres(**place) as database:
        values = SECRETS | {
            "MLFLOW_HOSTS": "localhost:*,127.0.0.1:*,mlflow:*",
            "postgres:5432": f"127.0.0.1:{database}",
            "store:7070": store.removeprefix("http://"),
            "127.0.0.1:5000": f"127.0.0.1:{port}",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=5000": f"--port={port}",
        }
        service = SERVICES["mlflow"]
        inherited = SERVICES["buckets"]["environment"]
        own = {name: _here(value, values) for name, value in (inherited | service["environment"]).items()}
        environment = {**os.environ, **own}
        script = [_here(word, values) for word in SERVICES["buckets"]["command"]]
        for _ in range(2):  # the second time they are there
            subprocess.run([sys.executable, *script[1:]], check=True, env=environment)
        command = [_here(word, values) for word in service["command"]]
        assert command[0] == "mlflow"
        with served([sys.executable, "-m", *command], port, folder / "mlflow.log", **own):
            check = [_here(word, values) for word in service["healthcheck"]["test"]]
            yield Rehearsal(f"http://127.0.0.1:{port}", store, check[-1])


@pytest.mark.slow
def test_health_check_succeeds_and_can_fail(rehearsal):
    check = rehearsal.health_check
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    wrong = re.sub(r":\d+/", f":{free_port()}/", check)
    assert subprocess.run([sys.executable, "-c", wrong], capture_output=True).returncode == 1


@pytest.mark.slow
def test_runs_lie_in_postgres_and_artifacts_in_the_bucket(rehearsal, tmp_path):
    client = MlflowClient(rehearsal.address)
    run = client.create_run(client.create_experiment("rehearsal"))
    client.log_metric(run.info.run_id, "loss", 0.5, step=3)
    file = tmp_path / "picture.txt"
    file.write_text("pixels")
    client.log_artifact(run.info.run_id, str(file))
    (point,) = client.get_metric_history(run.info.run_id, "loss")
    assert (point.value, point.step) == (0.5, 3)
    s3 = boto3.client(
        "s3",
        endpoint_url=rehearsal.store,
        region_name="us-east-1",
        aws_access_key_id=SECRETS["S3_ACCESS_KEY"],
        aws_secret_access_key=SECRETS["S3_SECRET_KEY"],
    )
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {"mlflow", "atjem"}
    (stored,) = s3.list_objects_v2(Bucket="mlflow")["Contents"]
    assert stored["Key"].endswith(f"{run.info.run_id}/artifacts/picture.txt")


def _status(address: str, host: str) -> int:
    request = Request(f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.slow
def test_host_names(rehearsal):
    """Other services may call it by its name; a page elsewhere cannot make a browser do so."""
    assert _status(rehearsal.address, "mlflow:5000") == 200
    assert _status(rehearsal.address, "elsewhere.example") == 403
