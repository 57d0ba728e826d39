"""Servers for object storage, tracking and databases, in separate processes on 127.0.0.1."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import glob
from importlib.util import find_spec
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from pyarrow import fs

from tests.support.planted import ACCESS_KEY, SECRET_KEY

_START_SECONDS = 300  # on a machine that is busy with other things


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(
    arguments: list[str], port: int, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process from its first answer at a port until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(port), 120)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):  # with everything that it started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """An S3-compatible server with an empty bucket `lab`, in memory: its port. It takes any credentials."""
    with simulated_aws(folder / "s3.log") as address:
        port = int(address.rpartition(":")[2])
        bucket_of(port).create_dir("lab")
        yield port


def bucket_of(port: int) -> fs.S3FileSystem:
    """A connection of the test's own."""
    return fs.S3FileSystem(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )


def s3_environment(port: int, cache: Path) -> dict[str, str]:
    """What a machine's environment says of a server, with a cache folder of its own."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "ATJEM_CACHE": str(cache),
    }


class MlflowServer:
    """`mlflow server` that can be killed and started again on the same port. A context.

    database: where it keeps runs; by default a SQLite file in `folder`.
    """

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder / 'server.db'}"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "server.db").exists():
            (self.folder / "server.db").write_bytes(empty_database())
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | extra
            )
        wait_until(lambda: process.poll() is not None or answers(self.port), _START_SECONDS)
        assert process.poll() is None, (self.folder / "server.log").read_text()

    def send(self, number: signal.Signals) -> None:
        """A signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


@cache
def empty_database() -> bytes:
    """An empty MLflow SQLite database. Creating one takes seconds, so it is created once."""
    from mlflow import MlflowClient  # takes seconds: not every user of this module needs it

    with TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


class Proxy:
    """Passes TCP connections on to a port of this machine, and can disturb them.

    cuts: so many of the next connections are dropped once they have sent `most` bytes. hold_after: bytes of
    all connections together after which nothing is passed on. is_open: False drops everything.
    """

    def __init__(self, target: int) -> None:
        self.target, self.most, self.cuts, self.dropped = target, 0, 0, 0
        self.hold_after, self.sent, self.is_open = inf, 0, True
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        self.ended = Event()
        Thread(target=self._accept, daemon=True).start()

    @property
    def holds(self) -> bool:
        return self.sent > self.hold_after

    def close(self) -> None:
        self.ended.set()
        self.listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self.listening.close()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.is_open:
                with socket.create_connection(("127.0.0.1", self.target)) as server:
                    self._copy(client, server)

    def _copy(self, client: socket.socket, server: socket.socket) -> None:
        sent = 0
        while not self.ended.is_set() and self.is_open:
            ready, _, _ = select.select([client, server], [], [], 0.2)
            for side in ready if not self.holds else ():
                chunk = side.recv(1 << 16)
                if not chunk:
                    return
                if side is client:
                    sent, self.sent = sent + len(chunk), self.sent + len(chunk)
                if self.cuts > 0 and sent > self.most:
                    self.cuts, self.dropped = self.cuts - 1, self.dropped + 1
                    return
                (server if side is client else client).sendall(chunk)
            if self.holds:
                time.sleep(0.05)


@contextmanager
def proxy_of(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def _program(name: str) -> str | None:
    """Path of a PostgreSQL program. Debian installs them outside PATH, with wrappers for some on it."""
    return next(iter(glob(f"/usr/lib/postgresql/*/bin/{name}")), None) or shutil.which(name)


def no_postgres() -> str:
    """Why no PostgreSQL server can be started here; empty when one can."""
    if not all(map(_program, ("initdb", "postgres", "createdb"))):
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if find_spec("psycopg2") is None:
        return "psycopg2-binary is not installed, through which MLflow reaches PostgreSQL"
    if os.getuid() == 0 and (shutil.which("runuser") is None or not _has_user("postgres")):
        return "PostgreSQL does not run as root, and there is no user postgres to run it as"
    return ""


def _has_user(name: str) -> bool:
    return subprocess.run(["id", name], capture_output=True).returncode == 0


@contextmanager
def postgres(*, user: str = "lab", password: str = "lab", database: str = "postgres") -> Iterator[int]:
    """The port of a PostgreSQL server with an empty cluster of its own."""
    port = free_port()
    own = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with TemporaryDirectory(dir="/tmp") as folder, TemporaryDirectory() as logs:
        secret, data = Path(folder, "password"), f"{folder}/data"
        secret.write_text(password)
        for path in (folder, secret) if own else ():  # its user must get there
            shutil.chown(path, "postgres")
        made = [*own, str(_program("initdb")), "-D", data, "-U", user, "--no-sync"]
        made += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(made, check=True, capture_output=True, cwd="/")
        arguments = [*own, str(_program("postgres")), "-D", data, "-p", str(port), "-k", folder]
        arguments += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with served(arguments, port, Path(logs, "log")):
            if database != "postgres":
                create = [str(_program("createdb")), "-h", "127.0.0.1", "-p", str(port), "-U", user, database]
                subprocess.run(create, check=True, env={**os.environ, "PGPASSWORD": password})
            yield port


@contextmanager
def simulated_aws(log: Path) -> Iterator[str]:
    """The address of EC2, IAM and S3 in memory; it takes any credentials."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served(command, port, log):
        yield f"http://127.0.0.1:{port}"
