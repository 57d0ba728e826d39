"""Names of a model's files, apart from torch, so that preflight can look for them quickly."""

from pathlib import Path

SPEC_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
PUBLISHED_SUFFIXES = (".pt", ".pth", ".ckpt")


def missing_files(folder: Path) -> list[str]:
    """Which of a model's two files a folder lacks."""
    return [name for name in (SPEC_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]


def unusable_start(path: Path) -> str:
    """Why training cannot start from this path's weights, in one line; '' when their kind looks right."""
    try:
        if path.is_dir():
            missing = missing_files(path)
            return f"has no {' and no '.join(missing)}" if missing else ""
        if not path.exists():
            return "no such file or folder"
    except OSError as error:
        return str(error.strerror)
    published = path.is_file() and path.suffix in PUBLISHED_SUFFIXES
    return "" if published else "is neither a model folder nor a published file"
