"""Where a result was made: commit and changes to it, machine, interpreter."""

import os
import platform
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data.redact import redact
from pipelines.fingerprint import ROOT
from pipelines.plan import Plan

_LARGEST = 2 << 20  # characters of changes that are kept
_ROOMS, _KINDS = ("atjem", "data", "pipelines", "sweeps"), ("py", "yaml")

# What somebody may have written into the code: values in a line that names a secret, or in the next one if it
# only names it; and what looks like one anywhere.
_NAME = re.compile(
    "secret|token|passw(or)?d|passphrase|pwd|credential|api_?key|access_?key|auth", re.IGNORECASE
)
_LITERAL = re.compile(r"\"([^\"\n]{4,})\"|'([^'\n]{4,})'")
_BARE = re.compile(r"([:=]\s*)[^\s\"'#]{4,}.*")  # of YAML, and of comments
_SHAPE = re.compile(r"\b(hf_|gh[opsu]_|glpat-|xox[abp]-|sk-)[\w-]{10,}|\bAKIA\w{12,}|\bBearer\s+[^\s\"']{4,}")
_KEY_BLOCK = "PRIVATE KEY-----"


@dataclass(frozen=True)
class Origin:
    """The code that a command runs, as its driver finds it: processes of a cluster have only a copy."""

    commit: str
    changes: str  # to the commit, without secrets


def facts(commit: str) -> dict[str, str]:
    """What belongs to every artifact and run, by the names of MLflow tags; the machine is this one."""
    return {
        "git.commit": commit,
        "atjem.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "atjem.python": platform.python_version(),
    }


def origin() -> Origin:
    return Origin(git_commit(), uncommitted())


def trust_tag(plan: Plan) -> dict[str, str]:
    """The file that a run may unpickle, by the name of its MLflow tag; nothing for most runs."""
    files = {step.node.trusted for step in plan.steps.values() if step.node.trusted}
    return {"atjem.trust_checkpoint": ", ".join(sorted(files))} if files else {}


def git_commit() -> str:
    """The project's commit, with '+changes' when the tree differs from it; 'unknown' outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if _git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def uncommitted() -> str:
    """Changes to the project's code since its commit, new files too, as `git apply` takes them.

    Empty outside a checkout and where there are none, or more than are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {**os.environ, "GIT_INDEX_FILE": str(Path(folder, "index"))}
        paths = [f":(glob){room}/**/*.{kind}" for room in _ROOMS for kind in _KINDS]
        listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths)
        try:
            _git("read-tree", "HEAD", environment=index)
            files = _git(*listing, environment=index)
            _git("update-index", "-z", "--add", "--remove", "--stdin", environment=index, told=files)
            words = ("diff", "--cached", "--no-color", "--no-ext-diff", "HEAD", "--", *paths)
            changes = _git(*words, environment=index)
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return ""
    return _without_secrets(changes) if len(changes) <= _LARGEST else ""


def _git(*arguments: str, environment: dict[str, str] | None = None, told: str = "") -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(
        command, input=told.encode(), capture_output=True, check=True, timeout=60, env=environment
    )
    return done.stdout.decode()


def _without_secrets(changes: str) -> str:
    """Rather too little than too much: what is left out cannot be applied, and then says so."""
    if _KEY_BLOCK in changes:
        return ""
    lines, is_yaml, named = [], False, False
    for line in changes.splitlines(keepends=True):
        if line.startswith(("+++ ", "--- ", "diff ", "index ", "@@")):
            is_yaml, named = line.rstrip().endswith(".yaml"), False
            lines.append(line)
            continue
        if (about := _NAME.search(line)) or named:
            told = _LITERAL.sub(_hidden, line)
            code, mark, comment = told.partition("#")
            if is_yaml:
                code = _BARE.sub(r"\1***", code)
            named = bool(about) and told == line
            line = code + mark + _BARE.sub(r"\1***", comment)
        lines.append(line)
    return redact(_SHAPE.sub("***", "".join(lines)))


def _hidden(literal: re.Match[str]) -> str:
    """A literal that only names a secret, as HF_TOKEN or --token do, stays."""
    value = literal[1] or literal[2]
    names = _NAME.search(value) and re.fullmatch(r"[A-Za-z_-]+", value)
    return literal[0] if names else f"{literal[0][0]}***{literal[0][0]}"
