"""The workdir that `--workdir` names: a folder, or an address of an object store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.redact import redact_address
from pipelines.problems import BadInput, Problem
from pipelines.workdir.remote import REACHABLE, RemoteError, open_remote
from pipelines.workdir.shared_store import SharedStore, shared_store
from pipelines.workdir.store import Store


def open_store(given: str) -> Store:
    """The workdir, a folder or on an object store. Raises BadInput."""
    if "://" not in given:
        return Store(resolve_workdir(given))
    try:
        return shared_store(open_remote(given))
    except ValueError as error:
        raise BadInput([Problem("--workdir", repr(redact_address(given)), str(error))]) from None


def resolve_workdir(given: str) -> Path:
    """The folder that `--workdir` names. Raises BadInput."""
    allowed = ""
    if "://" in given:
        allowed = "must be a folder"
    elif not given or any(sign in given for sign in "?%"):
        allowed = "must be a folder whose name has no ? and no %, which MLflow's SQLite address cannot hold"
    try:
        workdir = Path(given).expanduser().resolve()
    except (RuntimeError, OSError) as error:
        allowed = f"{error}; give another folder"
    if allowed:
        raise BadInput([Problem("--workdir", repr(given), allowed)])
    return workdir


@contextmanager
def readable(store: Store) -> Iterator[None]:
    """An object store that is out of reach before anything has begun is bad input."""
    if isinstance(store, SharedStore) and (reason := store.remote.unusable()):
        raise BadInput([Problem("--workdir", store.place, f"{reason}; {REACHABLE}")])
    try:
        yield
    except RemoteError as error:
        raise BadInput([Problem("--workdir", str(error), REACHABLE)]) from None
