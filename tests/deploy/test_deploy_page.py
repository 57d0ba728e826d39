"""deploy/README.md: its commands are ones that the program takes, its table has every word to fill in."""

import re
import subprocess
import sys
from urllib.parse import urlparse

import pytest

from pipelines.recipe import load_recipe
from tests.support.deployed import (
    DEPLOY,
    README,
    commands,
    explained,
    option,
    overrides,
    placeholders,
    read_yaml,
    texts,
)
from tests.support.running import ROOT

COMMANDS = commands()


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    command = [sys.executable, str(ROOT / "pipelines" / "run.py"), "--help"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"--[a-z][a-z-]+", said))


def test_there_are_commands():
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_options_exist_and_settings_are_valid(words, known_options):
    assert {word for word in words if word.startswith("--")} <= known_options
    _, problems = load_recipe(option(words, "--pipeline"), overrides(words))
    assert problems == []


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_workdir_is_remote_and_tracking_is_given(words):
    """A workdir on an object store needs a tracking server."""
    assert urlparse(option(words, "--workdir")).scheme == "s3"
    assert urlparse(option(words, "--tracking-uri")).scheme == "http"


def test_every_word_to_fill_in_is_explained():
    files = [read_yaml(name) for name in ("ray-cluster.yaml", "kuberay-rayjob.yaml", "docker-compose.yaml")]
    used = {word for file in files for text in texts(file) for word in placeholders(text)}
    used |= {word for words in COMMANDS.values() for word in placeholders(" ".join(words))}
    assert used == explained()


def test_files_that_it_points_to_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert [t for t in targets if not t.startswith("http") and not (DEPLOY / t).exists()] == []
    named = re.findall(r"^\| `([\w.-]+)` \|", README.split("## What was validated")[1], re.MULTILINE)
    files = ["Dockerfile", "docker-compose.yaml", "kuberay-rayjob.yaml", "ray-cluster.yaml", "slurm.sbatch"]
    assert sorted(named) == files
    assert all((DEPLOY / name).is_file() for name in named)
