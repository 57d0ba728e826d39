"""The workdir: content-addressed artifacts that appear all at once, and training checkpoints.

<workdir>/artifacts/<stage>/<fingerprint>/manifest.json     written last: the commit point
<workdir>/checkpoints/<stage>/<fingerprint>/step_<n>/

A fingerprint names what a result is made by; inputs that are made again under theirs may still come out
otherwise (images changed in place, a GPU). So a manifest, and unfinished work, note the essence of each
input, and count only while these are what they were.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines.context import Mirror, Nearby
from pipelines.files import read_json, sync_files, sync_folder, write_json
from pipelines.fingerprint import digest
from pipelines.workdir.checkpoints import checkpoint_steps, finished_parts
from pipelines.workdir.lock import holder, locked
from pipelines.workdir.transfer import describe, files_below

MANIFEST_FILE = "manifest.json"
MADE_FROM_FILE = "made_from.json"  # beside unfinished work


@dataclass(frozen=True)
class Store:
    """All paths under one workdir, on a local or shared file system.

    `SharedStore` has the same for an object store, where `workdir` is this machine's cache of it.
    """

    workdir: Path

    @property
    def place(self) -> str:
        """The workdir as people know it."""
        return str(self.workdir)

    def identity(self) -> str:
        """The same for whoever works in this workdir, wherever it is mounted; no other workdir's."""
        file = self.workdir / ".identity"
        if not file.exists():
            self.workdir.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".identity.{uuid4().hex[:8]}")
            draft.write_text(uuid4().hex)
            with suppress(FileExistsError):  # another process was faster
                os.link(draft, file)
            draft.unlink()
        return file.read_text()

    def here(self) -> "Store":
        """The same on the machine of this process."""
        return self

    def glance(self) -> "Store":
        """The same as it is now, for many questions at once."""
        return self

    def address(self, stage: str, fingerprint: str) -> str:
        """Where people find an artifact."""
        return str(self.artifact(stage, fingerprint))

    def fetch(self, stage: str, fingerprint: str) -> Path:
        """The folder of a finished artifact on this machine."""
        return self.artifact(stage, fingerprint)

    def pictures(self, stage: str, fingerprint: str) -> Path:
        """A folder with at least the figures, curve and pages of a finished artifact."""
        return self.artifact(stage, fingerprint)

    def alone(
        self,
        on_wait: Callable[[str], None],
        give_up: Callable[[], bool],
        on_lost: Callable[[str], None],
    ) -> AbstractContextManager[bool]:
        """Holds the workdir; see `lock.locked`, and `lease.lease` for `on_lost`."""
        return locked(self.workdir, on_wait, give_up)

    def holder(self) -> str | None:
        """The process of a run that works in the workdir now; None when there is none."""
        return holder(self.workdir)

    def artifact(self, stage: str, fingerprint: str) -> Path:
        return self.workdir / "artifacts" / stage / fingerprint

    def sweep(self) -> None:
        """Removes drafts that a killed run left behind; only for the holder of the workdir's lock."""
        for folder in (self.workdir / "artifacts").glob("*/.*"):
            shutil.rmtree(folder, ignore_errors=True)

    def in_the_making(self) -> list[str]:
        """Stages whose artifacts some run makes now, or made when it was killed."""
        return sorted({folder.parent.name for folder in (self.workdir / "artifacts").glob("*/.*")})

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

    def drop_checkpoints(self, stage: str, key: str) -> None:
        shutil.rmtree(self.checkpoints(stage, key), ignore_errors=True)

    def begin_work(self, stage: str, key: str, made_from: Mapping[str, str]) -> None:
        """Forgets unfinished work that was made from other inputs. made_from: each one's `essence`."""
        folder = self.checkpoints(stage, key)
        if read_json(folder / MADE_FROM_FILE) != made_from:
            self.drop_checkpoints(stage, key)
            folder.mkdir(parents=True)
            write_json(folder / MADE_FROM_FILE, dict(made_from))

    def steps(self, stage: str, key: str, most: float = inf) -> list[int]:
        """Of a node's training checkpoints up to step `most`, oldest first."""
        return [step for step, _ in checkpoint_steps(self.checkpoints(stage, key), most)]

    def finished_parts(self, stage: str, key: str) -> str:
        """What a stage without steps had finished when it was cut short, in words; empty when nothing."""
        folder = self.checkpoints(stage, key)
        return finished_parts(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))

    def mirror(self, stage: str, key: str) -> Mirror:
        return Nearby()

    def lock(self, stage: str, key: str) -> Path:
        """Held by whoever makes this artifact, or another from the same checkpoints."""
        return self.workdir / "locks" / f"{stage}-{key}"

    def manifest(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact whose files are all there; None otherwise."""
        folder = self.artifact(stage, fingerprint)
        sizes = {name: path.stat().st_size for name, path in files_below(folder).items()}
        return sound_manifest(read_json(folder / MANIFEST_FILE), fingerprint, sizes)

    def manifests(self, node: str, *, smoke: bool = False) -> list[dict[str, Any]]:
        """Of the finished artifacts of a node, oldest first: to tell what has changed since."""
        folders = (self.workdir / "artifacts" / node.split(".")[0]).glob(f"[!.]*/{MANIFEST_FILE}")
        return own_manifests(map(read_json, folders), node, smoke=smoke)

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
        manifest = self.seal(manifest)
        self.move()
        return manifest

    def seal(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """What the manifest describes outlives a loss of power before the manifest is there."""
        manifest = {**manifest, "files": describe(files_below(self.folder))}
        sync_files(self.folder)
        write_json(self.folder / MANIFEST_FILE, manifest)
        return manifest

    def move(self) -> None:
        replaced = self.folder.with_name(f"{self.folder.name}.old")
        if self.final.exists():
            self.final.rename(replaced)
        self.folder.rename(self.final)
        sync_folder(self.final.parent)
        shutil.rmtree(replaced, ignore_errors=True)


_KEYS = {
    "fingerprint": str,
    "run_id": str,
    "created": float,
    "seconds": float,
    "identity": dict,
    "made_from": dict,
    "metrics": dict,
}


def essence(manifest: Mapping[str, Any]) -> str:
    """A digest of what is made from an artifact can notice of it: files and figures, timings apart."""
    metrics = {name: value for name, value in manifest["metrics"].items() if not name.endswith("per_second")}
    return digest({"files": manifest["files"], "metrics": metrics})


def sound_manifest(
    manifest: dict[str, Any] | None, fingerprint: str, sizes: Mapping[str, int]
) -> dict[str, Any] | None:
    """The manifest if it is one, of this fingerprint, and its files are there. sizes: of what is there."""
    if manifest is None or not _is_manifest(manifest) or manifest["fingerprint"] != fingerprint:
        return None
    files = manifest["files"].items()
    return manifest if all(sizes.get(name) == entry["size"] for name, entry in files) else None


def own_manifests(
    manifests: Iterable[dict[str, Any] | None], node: str, *, smoke: bool
) -> list[dict[str, Any]]:
    """Those of a node, oldest first."""
    sound = [m for m in manifests if m is not None and _is_manifest(m)]
    own = [m for m in sound if m.get("node") == node and ("smoke" in m["identity"]) == smoke]
    return sorted(own, key=lambda m: m["created"])


def _is_manifest(value: dict[str, Any]) -> bool:
    """Every key that others rely on is there, with a value of its kind."""
    files = value.get("files")
    return (
        all(isinstance(value.get(name), kind) for name, kind in _KEYS.items())
        and isinstance(files, dict)
        and all(isinstance(entry, dict) and "size" in entry for entry in files.values())
    )
