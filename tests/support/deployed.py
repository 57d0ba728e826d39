"""The files of deploy/, as tests read them."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.support.running import ROOT

DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
_OWN = ("RAY_", "ATJEM_", "AWS_", "MLFLOW_", "POSTGRES_", "PGPASSWORD", "ROOT_", "VGW_")  # variables


def read_yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def texts(value: Any) -> Iterator[str]:
    """Every string in a parsed file, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def placeholders(text: str) -> set[str]:
    """Words in CAPITALS, which a user has to fill in."""
    words = re.findall(r"(?<![$\w])[A-Z][A-Z_]{3,}\b(?!=)", text)
    return {word for word in words if not word.startswith(_OWN)}


def filled_in(text: str, values: dict[str, str]) -> str:
    for word, value in values.items():
        text = re.sub(rf"\b{word}\b", value, text)
    assert not placeholders(re.sub(r"#.*", "", text)), placeholders(text)
    return text


def explained() -> set[str]:
    """The words that README.md's table explains."""
    section = README.split("## What to fill in")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def commands() -> dict[str, list[str]]:
    """The words behind `pipelines/run.py`, of README.md's commands and of the Kubernetes job's."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = {}
    for line in lines:
        inner = re.search(r"'(cd /opt/atjem.*)'", line)
        if "pipelines/run.py" in line:
            found[f"README.md: {line[:40]}"] = _after_program(inner[1] if inner else line)
    found["kuberay-rayjob.yaml"] = _after_program(read_yaml("kuberay-rayjob.yaml")["spec"]["entrypoint"])
    return found


def _after_program(line: str) -> list[str]:
    words = shlex.split(line)
    (place,) = [number for number, word in enumerate(words) if Path(word).name == "run.py"]
    return words[place + 1 :]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def overrides(words: list[str]) -> tuple[str, ...]:
    return tuple(value for word, value in pairwise(words) if word == "--set")
