"""The workdir: content-addressed artifacts that appear all at once, and training checkpoints.

<workdir>/artifacts/<stage>/<fingerprint>/manifest.json     written last: the commit point
<workdir>/checkpoints/<stage>/<fingerprint>/step_<n>/
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines.files import file_digest, read_json, write_json

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Store:
    """All paths under one workdir, on a local or shared file system."""

    workdir: Path

    def artifact(self, stage: str, fingerprint: str) -> Path:
        return self.workdir / "artifacts" / stage / fingerprint

    def checkpoints(self, stage: str, fingerprint: str) -> Path:
        return self.workdir / "checkpoints" / stage / fingerprint

    def manifest(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact whose files are all there; None otherwise."""
        folder = self.artifact(stage, fingerprint)
        manifest = read_json(folder / MANIFEST_FILE)
        if manifest is None or "files" not in manifest:
            return None
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["size"]:
                return None
        return manifest

    def latest_manifest(self, stage: str, part: str) -> dict[str, Any] | None:
        """The newest finished artifact of a stage's part, to tell what has changed since."""
        folders = (self.workdir / "artifacts" / stage).glob(f"*/{MANIFEST_FILE}")
        manifests = (read_json(file) for file in folders)
        own = [m for m in manifests if m is not None and m.get("part") == part]
        return max(own, key=lambda m: m["created"], default=None)

    @contextmanager
    def new_artifact(self, stage: str, fingerprint: str) -> Iterator["Draft"]:
        """A folder to write into; what is not published when the block ends is removed."""
        final = self.artifact(stage, fingerprint)
        folder = final.parent / f".{fingerprint}.{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield Draft(folder, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Draft:
    """An artifact in the making."""

    folder: Path
    final: Path

    def publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Adds the files' digests, writes the manifest last and moves the folder into place at once.

        An artifact that is there already is replaced. Returns the manifest as written.
        """
        files = {
            path.relative_to(self.folder).as_posix(): {
                "size": path.stat().st_size,
                "sha256": file_digest(path),
            }
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        manifest = {**manifest, "files": files}
        write_json(self.folder / MANIFEST_FILE, manifest)
        if self.final.exists():
            self.final.rename(self.folder.with_suffix(".old"))
        self.folder.rename(self.final)
        shutil.rmtree(self.folder.with_suffix(".old"), ignore_errors=True)
        return manifest
