"""Names of a model's files, apart from torch, so that preflight can look for them quickly."""

from pathlib import Path

SPEC_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


def missing_files(folder: Path) -> list[str]:
    """Which of a model's two files a folder lacks."""
    return [name for name in (SPEC_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
