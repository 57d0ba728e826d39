"""Every command and the Python of README.md, run as a reader would; runs of hours are made small."""

import json
import re
import subprocess
import sys
from urllib.request import urlopen

import numpy as np
import pytest

from tests.support.browser import mlflow_ui
from tests.support.readme import COMMANDS, README, SMALLER, find, run
from tests.support.running import ROOT
from tests.support.servers import s3_environment, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_object_store(place, tmp_path, monkeypatch):
    with s3_server(tmp_path) as port:
        for name, value in s3_environment(port, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        command = find("--workdir s3://").replace("BUCKET", "lab")
        done = run(f"{command} --smoke --plan", place)
        assert done.returncode == 0, done.stderr
        assert "--plan has started nothing" in done.stdout
        done = run(f"{command.partition('--tracking-uri')[0]} --smoke", place)
        assert "MLflow server" in done.stderr


def test_every_command_is_known():
    """A command that is new in the README needs a test here."""
    tested = [
        "make demo",
        "make check",
        "make test",
        "contrastive.step_size=0.2 --plan",
        "contrastive.step_size=0.2",
        "make ui",
        "compare RUN RUN RUN",
        "compare RUN RUN --metric",
        "reproduce RUN",  # tests/faults/test_reproduce.py
        *["cifar10-small --set data.root=DATASETS"] * 6,
        "tune_pgd.py --pipeline digits",
        "tune_pgd.py --resume",
        "imagenet256 --plan",
        "imagenet256 --smoke",
        "cifar10 --set data.root=DATASETS",
        "digits --status",
        "pipelines deliver",
        "deliver --tracking-uri",
        "--ray-address",
        "--workdir s3://BUCKET/runs",
        "data.in=IMAGES",
        "data.export runs/artifacts/sample/FINGERPRINT --npz",
        "data.export runs/artifacts/sample/FINGERPRINT --png",
        "data.prepare",
        "data.check",
    ]
    assert [part for part, command in zip(tested, COMMANDS, strict=True) if part not in command] == []


def test_demo_ends_with_the_metrics_and_where_to_look(demo):
    names = re.search(r"^```\nmetric .*?\n```", README, flags=re.MULTILINE | re.DOTALL)[0].splitlines()[2:-1]
    told = {line.split("  ")[0] for line in names}
    for name in told - {"robust_gate"}:  # four images do not decide it
        assert f"\n{name} " in demo.result.err
    assert "report.html" in demo.result.err
    assert "make ui" in demo.result.err


def test_change_and_plan(changed_demo):
    assert len(changed_demo) == 2
    for done in changed_demo:
        assert done.returncode == 0, done.stderr
        assert "train_stage1" in done.stdout
        assert "changed setting: stage2.contrastive.step_size" in done.stdout


def test_compare(demo, changed_demo, place):
    experiment = demo.client.get_experiment_by_name("digits").experiment_id
    query = "tags.`atjem.kind` = 'pipeline' AND params.`stage2.contrastive.step_size` = '0.2'"
    (changed, *_) = demo.client.search_runs([experiment], query)
    runs = f"{demo.result.json['run_id']} {changed.info.run_id}"
    done = run(find("compare RUN RUN RUN").replace("RUN RUN RUN", runs), place)
    assert done.returncode == 0, done.stderr
    assert "stage2.contrastive.step_size=0.2" in done.stdout
    done = run(find("compare RUN RUN --metric").replace("RUN RUN", runs), place)
    (columns,) = json.loads(done.stdout.splitlines()[-1])["metrics"].values()
    assert [column["num"] for column in columns] == [1, 1]


def test_export(demo, place):
    samples = next((place / "runs/artifacts/sample").glob("[!.]*/manifest.json")).parent
    for option in ("--npz", "--png"):
        done = run(find(f"FINGERPRINT {option}").replace("FINGERPRINT", samples.name), place)
        assert done.returncode == 0, done.stderr
    with np.load(place / "samples.npz") as stored:
        assert len(stored["arr_0"]) == len(list((place / "FOLDER").iterdir()))


def test_status(demo, place):
    done = run(find("--status"), place, SMALLER)
    assert done.returncode == 0
    assert "finished" in done.stdout


@pytest.mark.parametrize("part", ["", " --tracking-uri URI"], ids=["own", "another"])
def test_deliver(demo, place, part):
    command = f"python -m pipelines deliver{part}"
    assert command in COMMANDS
    done = run(command.replace("URI", f"sqlite:///{place / 'other.db'}"), place)
    assert (done.returncode, done.stdout) == (0, "nothing is left to deliver\n")


def test_ui_answers(demo, tmp_path):
    with mlflow_ui(demo.workdir, tmp_path / "log") as address, urlopen(address, timeout=60) as page:
        assert page.status == 200


def test_plan_of_a_recipe_without_data(place):
    assert run(find("imagenet256 --plan"), place).returncode == 0


def test_recipe_with_data_names_what_is_missing(place):
    done = run(find("cifar10 --set data.root=DATASETS"), place)
    assert done.returncode == 2
    assert "DATASETS/cifar-10-batches-py does not exist; run python -m data.get cifar10" in done.stderr
    assert "evaluate.inception_weights: WEIGHTS; no such file" in done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if "cifar10-small" in command])
def test_comparison(command, place):
    done = run(f"{command} --smoke --plan", place)
    assert done.returncode == 0, done.stderr
    assert "--plan has started nothing" in done.stdout


def test_prepare_and_check(place):
    assert run(find("data.prepare"), place).returncode == 0
    done = run(find("data.check"), place)
    assert (done.returncode, done.stdout.strip()) == (0, "SHARDS: sound")


def test_python(demo, place):
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (line,) = [line for line in demo.result.err.splitlines() if line.startswith("model ")]
    code = code.replace("runs/artifacts/train_stage2/FINGERPRINT", line.split()[-1])
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(images.shape, energies.shape, other.shape)"],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[10, 1, 8, 8]") == 2


def test_files_that_it_points_to_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()] == []
