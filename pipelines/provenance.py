"""Where a result was made: commit, machine, interpreter."""

import os
import platform
import subprocess

from pipelines.fingerprint import ROOT


def provenance() -> dict[str, str]:
    """Facts that belong to every artifact and run, by the names of their MLflow tags."""
    return {
        "git.commit": git_commit(),
        "atjem.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "atjem.python": platform.python_version(),
    }


def git_commit() -> str:
    """The project's commit, with '+changes' when the tree differs from it; 'unknown' outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if _git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
