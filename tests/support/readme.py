"""README's commands, run as a reader would, runs of hours made small; imported by tests of several rooms."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.running import REDUCED, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
# A reader's shell, also when `make test` runs this.
SHELL = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
# Settings that a reader would not give: they make a run of minutes or hours one of seconds.
SMALLER = REDUCED | {"evaluate.robust.attack": "autoattack"}


def _commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        re.sub(r"\s+#.*| {2,}", lambda m: "" if "#" in m[0] else " ", line).strip() for line in lines if line
    ]


COMMANDS = _commands()
RUNS = [command for command in COMMANDS if "pipelines/run.py" in command]


def run(
    command: str, place: Path, extra: dict[str, object] | None = None
) -> subprocess.CompletedProcess[str]:
    """extra: settings for a command that runs a recipe."""
    words = shlex.split(command)
    assert words[0] == "python"
    words[0] = sys.executable
    if "pipelines/run.py" in words:
        for name, value in (extra or {}).items():
            words += ["--set", f"{name}={value}"]
    return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=900)


def find(part: str) -> str:
    """The one command that has `part`."""
    (command,) = [command for command in COMMANDS if part in command]
    return command
