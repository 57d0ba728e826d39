"""deploy/Dockerfile, as far as it goes without building it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployed import DEPLOY
from tests.support.running import ROOT

TEXT = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
INSTRUCTIONS = [line.split(None, 1) for line in LINES if line.strip()]
INSTALLS = [part.split() for line in LINES for part in line.split("&&") if "uv pip install" in part]


def of(keyword: str) -> list[str]:
    return [rest for word, rest in INSTRUCTIONS if word == keyword]


def test_base_image_is_pinned_to_the_tested_python():
    images = [rest.split()[0] for rest in of("FROM")]
    assert len(images) == 3
    assert images[1:] == ["base", "base"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", images[0])


def test_copied_paths_exist_and_reach_the_builder():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    copied = [source for rest in of("COPY") for source in rest.split()[:-1]]
    assert {"constraints.txt", "pyproject.toml", "atjem", "data", "pipelines", "sweeps"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert "*" in ignored


def test_flags_of_the_installer_exist():
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}")
    if uv is None:
        pytest.skip("uv is not in this environment; `make test` installs it")
    said = subprocess.run([uv, "pip", "install", "--help"], check=True, capture_output=True, text=True).stdout
    flags = {word for words in INSTALLS for word in words if word.startswith("--")}
    assert len(INSTALLS) == 3
    assert {flag for flag in flags if not re.search(rf"{flag}\b", said)} == set()


def test_every_install_is_constrained_and_compiled():
    for words in INSTALLS:
        assert {"--system", "--compile-bytecode"} <= set(words)
        assert words[words.index("--constraints") + 1] == "constraints.txt"
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    named = {word for words in INSTALLS for word in words[3:] if re.fullmatch(r"[a-z][a-z0-9-]+", word)}
    assert named - {"install"} <= pinned


def test_nobody_runs_as_root_and_nothing_is_secret():
    assert of("USER") == ["1000", "1000"]
    assert not re.search(r"(?i)(password|secret|token)\s*=", TEXT)
