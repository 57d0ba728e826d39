"""Zip and tar archives of small images."""

import io
import tarfile
import zipfile
from pathlib import Path

from data.sources.archives import archive_source
from tests.support.data_files import picture

TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = [".zip", *TAR_MODES]


def write_archive(path: Path, names: list[str]) -> Path:
    """An image of its own for each name, its seed the name's place."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for seed, name in enumerate(names):
                archive.writestr(name, picture(seed))
        return path
    with tarfile.open(path, TAR_MODES["".join(path.suffixes)]) as tar:
        for seed, name in enumerate(names):
            member, content = tarfile.TarInfo(name), picture(seed)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def listed(path: Path) -> dict[str, tuple[str | None, str | None]]:
    return {item.name: (item.label, item.split) for item in archive_source(path).items}
