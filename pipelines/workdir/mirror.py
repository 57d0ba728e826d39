"""A node's inputs and its unfinished work, between the machine that works and the workdir's object store.

Each checkpoint folder or part file that is sent has a note of its files' digests beside it, written last:
what has no note is not there. Where a machine's disk and the store differ, the store is right, so that
processes on several machines restore the same.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from data.folders import Folder, LocalFolder, ObjectFolder, locked
from pipelines.files import write_text
from pipelines.workdir.store import MADE_FROM_FILE
from pipelines.workdir.transfer import DamagedError, bring, describe, files_below, send

if TYPE_CHECKING:
    from pipelines.workdir.shared_store import SharedStore

_NOTE = ".sent.json"  # ends the note's name: `.NAME.sent.json` beside what was sent under that name
_CHECKPOINTS = "step_*"


class SharedMirror:
    """`pipelines.context.Mirror` of one node of a shared workdir, on the machine of this process."""

    def __init__(self, store: "SharedStore", stage: str, key: str) -> None:
        self.store, self.stage, self.key = store.here(), stage, key
        self.remote, self.folder = self.store.remote, self.store.checkpoints(stage, key)
        self.at = f"checkpoints/{stage}/{key}"
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is that machine's."""
        return SharedMirror, (self.store, self.stage, self.key)

    def inputs(self, folders: Mapping[str, Path]) -> dict[str, Path]:
        """folders: .../artifacts/<stage>/<fingerprint>, of any machine's cache."""
        return {role: self.store.fetch(*folder.parts[-2:]) for role, folder in folders.items()}

    def checkpoints(self, folder: Path) -> Path:
        return self.folder

    def pull(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.store.lock("pull", f"{self.stage}-{self.key}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            self._forget_others()
            sent = self._sent()
            for name, note in sent.items():
                self._bring(name, note)
            for path in self.folder.glob(_CHECKPOINTS):
                if path.name not in sent:
                    shutil.rmtree(path)

    def _forget_others(self) -> None:
        """What this machine made from other inputs than the store's."""
        own = self.folder / MADE_FROM_FILE
        try:
            text = self.remote.read(f"{self.at}/{MADE_FROM_FILE}").decode()
        except FileNotFoundError:
            text = ""
        if text != (own.read_text() if own.is_file() else ""):
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            write_text(own, text)

    def push(self, *paths: Path) -> None:
        """Waits for the last push: two checkpoints are kept, so none is removed while it is sent."""
        self.wait()
        self._thread = self._thread or ThreadPoolExecutor(1)
        self._pending = self._thread.submit(
            self._send, [p.relative_to(self.folder).as_posix() for p in paths]
        )

    def wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def shared(self, folder: Path) -> Folder:
        address = f"{self.remote.address}/{self.at}/{folder.name}"
        filesystem, path = self.remote.folder(f"{self.at}/{folder.name}")
        return LocalFolder(Path(path)) if self.remote.is_local else ObjectFolder(filesystem, path, address)

    def collect(self, folder: Path) -> None:
        at = f"{self.at}/{folder.name}"
        entries = self.remote.entries(at)
        shutil.rmtree(folder, ignore_errors=True)
        self.remote.each(lambda name: self.remote.get(f"{at}/{name}", folder / name), entries)
        for name, entry in entries.items():
            if (folder / name).stat().st_size != entry.size:
                raise DamagedError(f"{self.remote.address}/{at}/{name}: did not come whole")

    def storage(self, folder: Path) -> tuple[str, Any]:
        filesystem, path = self.remote.folder(f"{self.at}/{folder.name}")
        return path, filesystem

    def _sent(self) -> dict[str, str]:
        """The notes of what the store holds, by the names of what was sent."""
        notes = [name for name in self.remote.entries(self.at) if name.endswith(_NOTE)]
        texts = self.remote.each(lambda name: self.remote.read(f"{self.at}/{name}").decode(), notes)
        return {_named(note): text for note, text in zip(notes, texts, strict=True)}

    def _bring(self, name: str, note: str) -> None:
        """Puts what was sent in its place, unless it is there; what came damaged counts as never sent."""
        path, own = self.folder / name, self.folder / _note(name)
        if path.exists() and self._is_sent(name) and own.read_text() == note:
            return
        near = self.folder / f".{uuid4().hex[:8]}.coming"
        _remove(path)
        try:
            bring(self.remote, self.at, json.loads(note)["files"], near)
            path.parent.mkdir(parents=True, exist_ok=True)
            (near / name).rename(path)
            write_text(own, note)
        except DamagedError:
            pass
        finally:
            shutil.rmtree(near, ignore_errors=True)

    def _send(self, names: list[str]) -> None:
        for name in names:
            path = self.folder / name
            if not path.exists():
                self._drop(name)
                continue
            if not self._is_sent(name):
                files = self._files(name)
                note = json.dumps({"files": describe(files)})
                send(self.remote, self.at, files)
                self.remote.write(f"{self.at}/{_note(name)}", note.encode())
                write_text(self.folder / _note(name), note)
            if path.is_dir():
                self._prune()

    def _files(self, name: str) -> dict[str, Path]:
        path = self.folder / name
        below = files_below(path) if path.is_dir() else {}
        return {f"{name}/{inner}": file for inner, file in below.items()} or {name: path}

    def _is_sent(self, name: str) -> bool:
        """By the note here, which is written behind the files whichever way they went."""
        note = self.folder / _note(name)
        newest = max(file.stat().st_mtime_ns for file in self._files(name).values())
        return note.is_file() and note.stat().st_mtime_ns > newest

    def _prune(self) -> None:
        """Takes away checkpoints that are no longer kept here."""
        tops = {PurePosixPath(name).parts[0] for name in self.remote.entries(self.at)}
        for name in tops:
            if PurePosixPath(name).match(_CHECKPOINTS) and not (self.folder / name).exists():
                self._drop(name)

    def _drop(self, name: str) -> None:
        self.remote.remove(f"{self.at}/{_note(name)}")
        (self.folder / _note(name)).unlink(missing_ok=True)
        names = self.remote.entries(self.at)
        if name in names:
            self.remote.remove(f"{self.at}/{name}")
        elif any(other.startswith(f"{name}/") for other in names):
            self.remote.remove_tree(f"{self.at}/{name}")


def _note(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_name(f".{path.name}{_NOTE}").as_posix()


def _named(note: str) -> str:
    path = PurePosixPath(note)
    return path.with_name(path.name.removeprefix(".").removesuffix(_NOTE)).as_posix()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sent_steps(names: Iterable[str], most: float) -> list[int]:
    """Of training checkpoints up to step `most`, oldest first. names: of all objects below their folder."""
    found = [_named(name).removeprefix("step_") for name in names if name.endswith(_NOTE) and "/" not in name]
    return sorted(int(step) for step in found if step.isdigit() and int(step) <= most)
