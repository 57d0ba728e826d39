"""The workdir on an object store, laid out as a folder would be, and each machine's cache of it.

The store is the truth: an artifact exists once its manifest does there, whatever a cache holds. Stages work
on the cache's folders. It lies in ATJEM_CACHE (default ~/.cache/atjem) and may be removed between runs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from data.folders import locked
from pipelines.files import read_json, write_text
from pipelines.workdir.checkpoints import finished_parts
from pipelines.workdir.lease import lease, lease_holder
from pipelines.workdir.lock import locked as locked_here
from pipelines.workdir.mirror import SharedMirror, sent_steps
from pipelines.workdir.remote import Entry, Remote, RemoteError
from pipelines.workdir.store import MADE_FROM_FILE, MANIFEST_FILE, Draft, Store, own_manifests, sound_manifest
from pipelines.workdir.transfer import DamagedError, bring, files_below, send

_SHOWN = ("curve.json", "figures/*", "*.html")


def cache_folder(remote: Remote) -> Path:
    """Of this machine."""
    root = os.environ.get("ATJEM_CACHE") or "~/.cache/atjem"
    name = hashlib.sha256(f"{remote.endpoint} {remote.address}".encode()).hexdigest()[:16]
    return Path(root).expanduser().absolute() / name


def shared_store(remote: Remote) -> "SharedStore":
    return SharedStore(cache_folder(remote), remote)


@dataclass(frozen=True)
class SharedStore(Store):
    """`workdir` is this machine's cache. `seen`: what the store held at one moment, to be asked in its place.

    Raises RemoteError when the store cannot be reached.
    """

    remote: Remote
    seen: Mapping[str, Entry] | None = None

    @property
    def place(self) -> str:
        return self.remote.address

    def here(self) -> "SharedStore":
        return shared_store(self.remote)

    def identity(self) -> str:
        return self.place

    def glance(self) -> "SharedStore":
        """One listing, and the manifests that this machine has not read before."""
        if self.seen is not None:
            return self
        seen = self.remote.entries()
        store = replace(self, seen=seen)
        self.remote.each(store._known, [name for name in seen if _is_manifest(name)])
        return store

    def address(self, stage: str, fingerprint: str) -> str:
        return f"{self.remote.address}/{_artifact(stage, fingerprint)}"

    def alone(
        self,
        on_wait: Callable[[str], None],
        give_up: Callable[[], bool],
        on_lost: Callable[[str], None],
    ) -> AbstractContextManager[bool]:
        """On this machine by a lock, which tells at once when a process dies; among machines by a lease."""
        return _alone(self, on_wait, give_up, on_lost)

    def holder(self) -> str | None:
        return super().holder() or lease_holder(self.remote)

    def drop_checkpoints(self, stage: str, key: str) -> None:
        self.remote.remove_tree(f"checkpoints/{stage}/{key}")
        super().drop_checkpoints(stage, key)

    def begin_work(self, stage: str, key: str, made_from: Mapping[str, str]) -> None:
        name = f"checkpoints/{stage}/{key}/{MADE_FROM_FILE}"
        if self._read_json(name) != made_from:
            self.drop_checkpoints(stage, key)
            self.remote.write(name, json.dumps(dict(made_from)).encode())

    def sweep(self) -> None:
        """Also takes away what killed uploads left: artifacts' files without a manifest."""
        super().sweep()
        names = [PurePosixPath(name) for name in self.remote.entries("artifacts")]
        folders = {path.parents[-3] for path in names if len(path.parts) > 2}
        finished = {path.parent for path in names if path.name == MANIFEST_FILE}
        for folder in folders - finished:
            self.remote.remove_tree(f"artifacts/{folder}")

    def note_failure(self, stage: str, fingerprint: str, reason: str, traceback: str = "") -> Path:
        file = super().note_failure(stage, fingerprint, reason, traceback)
        with suppress(RemoteError):  # which may be what is told
            self.remote.hasty.write(_failure(stage, fingerprint), file.read_bytes())
        return file

    def failure(self, stage: str, fingerprint: str) -> str | None:
        name = _failure(stage, fingerprint)
        if (self.seen is not None and name not in self.seen) or self.manifest(stage, fingerprint) is not None:
            return None
        noted = self._read_json(name)
        return None if noted is None else str(noted.get("reason"))

    def steps(self, stage: str, key: str, most: float = inf) -> list[int]:
        return sent_steps(self._names(f"checkpoints/{stage}/{key}"), most)

    def finished_parts(self, stage: str, key: str) -> str:
        return finished_parts(self._names(f"checkpoints/{stage}/{key}"))

    def mirror(self, stage: str, key: str) -> SharedMirror:
        return SharedMirror(self, stage, key)

    def manifest(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        entries = self._names(_artifact(stage, fingerprint))
        if MANIFEST_FILE not in entries:
            return None
        name = f"{_artifact(stage, fingerprint)}/{MANIFEST_FILE}"
        manifest = self._read_json(name) if self.seen is None else self._known(name)
        return sound_manifest(manifest, fingerprint, {name: entry.size for name, entry in entries.items()})

    def manifests(self, node: str, *, smoke: bool = False) -> list[dict[str, Any]]:
        store = self.glance()
        above = f"artifacts/{node.split('.')[0]}/"
        names = [name for name in store.seen or {} if name.startswith(above) and _is_manifest(name)]
        return own_manifests(map(store._known, names), node, smoke=smoke)

    def fetch(self, stage: str, fingerprint: str) -> Path:
        """Brings an artifact into this machine's cache, each file checked: whole or not at all.

        One process at a time; what is here already stays. Raises DamagedError.
        """
        folder = self.artifact(stage, fingerprint)
        with self._held(stage, fingerprint):
            text, manifest = self._finished(stage, fingerprint)
            if not self._is_current(folder, text, manifest):
                self._bring(stage, fingerprint, manifest["files"], text, folder)
        return folder

    def pictures(self, stage: str, fingerprint: str) -> Path:
        whole, folder = self.artifact(stage, fingerprint), self.workdir / "pictures" / stage / fingerprint
        with self._held(stage, fingerprint):
            text, manifest = self._finished(stage, fingerprint)
            if self._is_current(whole, text, manifest):
                return whole
            files = manifest["files"].items()
            shown = {n: e for n, e in files if any(fnmatch(n, pattern) for pattern in _SHOWN)}
            self._bring(stage, fingerprint, shown, text, folder)
        return folder

    @contextmanager
    def new_artifact(self, stage: str, fingerprint: str) -> Iterator[Draft]:
        _clear(self.artifact(stage, fingerprint))
        with super().new_artifact(stage, fingerprint) as draft:
            yield SharedDraft(draft.folder, draft.final, self.remote, _artifact(stage, fingerprint))

    def _finished(self, stage: str, fingerprint: str) -> tuple[str, dict[str, Any]]:
        """A manifest's text, to compare, and what it says."""
        try:
            text = self.remote.read(f"{_artifact(stage, fingerprint)}/{MANIFEST_FILE}").decode()
            return text, json.loads(text)
        except FileNotFoundError:
            raise RemoteError(f"{self.address(stage, fingerprint)}: is not there any more") from None
        except ValueError:
            raise DamagedError(f"{self.address(stage, fingerprint)}/{MANIFEST_FILE}: is damaged") from None

    def _is_current(self, folder: Path, text: str, manifest: Mapping[str, Any]) -> bool:
        own = folder / MANIFEST_FILE
        if not own.is_file() or own.read_text(encoding="utf-8") != text:
            return False
        there = files_below(folder)
        files = manifest["files"].items()
        return all(name in there and there[name].stat().st_size == entry["size"] for name, entry in files)

    def _bring(
        self, stage: str, fingerprint: str, files: Mapping[str, Mapping[str, Any]], text: str, folder: Path
    ) -> None:
        _clear(folder)
        near = folder.with_name(f".{fingerprint}.{uuid4().hex[:8]}")
        try:
            bring(self.remote, _artifact(stage, fingerprint), files, near)
            write_text(near / MANIFEST_FILE, text)
            Draft(near, folder).move()
        except DamagedError as error:
            raise DamagedError(f"{error}; --force {stage} makes it again") from None
        finally:
            shutil.rmtree(near, ignore_errors=True)

    @contextmanager
    def _held(self, stage: str, fingerprint: str) -> Iterator[None]:
        file = self.lock("fetch", f"{stage}-{fingerprint}")
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file):
            yield

    def _names(self, below: str) -> Mapping[str, Entry]:
        if self.seen is None:
            return self.remote.entries(below)
        start = f"{below}/"
        return {name.removeprefix(start): e for name, e in self.seen.items() if name.startswith(start)}

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self.remote.read(name))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _known(self, name: str) -> dict[str, Any] | None:
        """A manifest that was seen; read from the store once, and then from this machine's disk."""
        assert self.seen is not None, "only what a listing has shown is known"
        entry = self.seen[name]
        stage, fingerprint = PurePosixPath(name).parts[1:3]
        kept = self.workdir / "manifests" / stage / f"{fingerprint}.{entry.size}.{entry.mtime_ns}.json"
        if (known := read_json(kept)) is not None:
            return known
        manifest = self._read_json(name)
        if manifest is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, json.dumps(manifest))
        return manifest


@dataclass(frozen=True)
class SharedDraft(Draft):
    """Goes to the object store, its manifest last, and stays in the cache."""

    remote: Remote
    at: str

    def publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        manifest = self.seal(manifest)
        files = files_below(self.folder)
        commit = files.pop(MANIFEST_FILE)
        self.remote.remove(f"{self.at}/{MANIFEST_FILE}")
        self.remote.remove_tree(self.at)
        send(self.remote, self.at, files)
        self.remote.put(commit, f"{self.at}/{MANIFEST_FILE}")
        self.move()
        return manifest


@contextmanager
def _alone(
    store: SharedStore,
    on_wait: Callable[[str], None],
    give_up: Callable[[], bool],
    on_lost: Callable[[str], None],
) -> Iterator[bool]:
    with locked_here(store.workdir, on_wait, give_up) as free:
        if not free:
            yield False
            return
        with lease(store.remote, on_wait, give_up, on_lost) as held:
            yield held


def _clear(folder: Path) -> None:
    """Takes away what killed processes left beside a folder; no other of this machine makes or fetches it."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _artifact(stage: str, fingerprint: str) -> str:
    return f"artifacts/{stage}/{fingerprint}"


def _failure(stage: str, fingerprint: str) -> str:
    return f"artifacts/{stage}/{fingerprint}.failed.json"


def _is_manifest(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parts[0] == "artifacts" and len(path.parts) == 4 and path.name == MANIFEST_FILE
