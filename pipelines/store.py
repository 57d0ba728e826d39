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

    def discard(self, stage: str, fingerprint: str, key: str) -> None:
        """Forgets an artifact and the checkpoints that led to it: what they were made from has changed."""
        (self.artifact(stage, fingerprint) / MANIFEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.artifact(stage, fingerprint), ignore_errors=True)
        shutil.rmtree(self.checkpoints(stage, key), ignore_errors=True)

    def sweep(self) -> None:
        """Removes drafts that a killed run left behind; only for the holder of the workdir's lock."""
        for folder in (self.workdir / "artifacts").glob("*/.*"):
            shutil.rmtree(folder, ignore_errors=True)

    def note_failure(self, stage: str, fingerprint: str, reason: str, traceback: str = "") -> Path:
        """Remembered beside the artifact that did not come to be, until it does. Returns where."""
        folder = self.artifact(stage, fingerprint).parent
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{fingerprint}.failed.json"
        write_json(file, {"reason": reason, "traceback": traceback.splitlines()})
        return file

    def failure(self, stage: str, fingerprint: str) -> str | None:
        """Why the last try failed; None when there was none, or it has succeeded since."""
        noted = read_json(self.artifact(stage, fingerprint).parent / f"{fingerprint}.failed.json")
        finished = self.manifest(stage, fingerprint) is not None
        return None if noted is None or finished else str(noted.get("reason"))

    def checkpoints(self, stage: str, key: str) -> Path:
        """key: `pipelines.plan.Step.key`, the fingerprint of a node that runs to its end."""
        return self.workdir / "checkpoints" / stage / key

    def lock(self, stage: str, key: str) -> Path:
        """Held by whoever makes this artifact, or another from the same checkpoints."""
        return self.workdir / "locks" / f"{stage}-{key}"

    def manifest(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact whose files are all there; None otherwise."""
        folder = self.artifact(stage, fingerprint)
        manifest = read_json(folder / MANIFEST_FILE)
        if manifest is None or not _is_manifest(manifest) or manifest["fingerprint"] != fingerprint:
            return None
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["size"]:
                return None
        return manifest

    def manifests(self, node: str, *, smoke: bool = False) -> list[dict[str, Any]]:
        """Of the finished artifacts of a node, oldest first: to tell what has changed since."""
        folders = (self.workdir / "artifacts" / node.split(".")[0]).glob(f"[!.]*/{MANIFEST_FILE}")
        manifests = (read_json(file) for file in folders)
        sound = [m for m in manifests if m is not None and _is_manifest(m)]
        own = [m for m in sound if m.get("node") == node and ("smoke" in m["identity"]) == smoke]
        return sorted(own, key=lambda m: m["created"])

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
        replaced = self.folder.with_name(f"{self.folder.name}.old")
        if self.final.exists():
            self.final.rename(replaced)
        self.folder.rename(self.final)
        shutil.rmtree(replaced, ignore_errors=True)
        return manifest


_KEYS = {
    "fingerprint": str,
    "run_id": str,
    "created": float,
    "seconds": float,
    "identity": dict,
    "metrics": dict,
}


def _is_manifest(value: dict[str, Any]) -> bool:
    """Every key that others rely on is there, with a value of its kind."""
    files = value.get("files")
    return (
        all(isinstance(value.get(name), kind) for name, kind in _KEYS.items())
        and isinstance(files, dict)
        and all(isinstance(entry, dict) and "size" in entry for entry in files.values())
    )
