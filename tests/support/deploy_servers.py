"""Servers on 127.0.0.1 that tests of deploy/ start and end."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server that listens on `port` once the block begins."""
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 300
        while not _listens(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def simulated_aws(log: Path) -> Iterator[str]:
    """The address of moto's server: EC2, IAM and S3 in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, port, log):
        yield f"http://127.0.0.1:{port}"


def credentials(address: str) -> dict[str, str]:
    """Variables with which clients of AWS reach `address`."""
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "simulated")
    return {**keys, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}


def postgres_programs() -> Path | None:
    """The folder with PostgreSQL's server programs; None where it is not installed."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian's, not on the path
    needed = ("initdb", "postgres", "createdb")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


@contextmanager
def postgres(programs: Path, *, user: str, password: str, database: str) -> Iterator[int]:
    """A new PostgreSQL server's port. It refuses to run as root, so then it runs as the user `postgres`."""
    with TemporaryDirectory() as place:
        folder, secret = Path(place), Path(place) / "password"
        secret.write_text(password)
        become: list[str] = []
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, "postgres")
            become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data, port = folder / "data", free_port()
        initdb = [*become, str(programs / "initdb"), f"--pgdata={data}", f"--username={user}", "--no-sync"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(initdb, check=True, capture_output=True)
        server = [*become, str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
        server.append(f"--unix_socket_directories={folder}")
        with running(server, port, folder / "log"):
            createdb = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", user, database]
            subprocess.run(createdb, check=True, env={**os.environ, "PGPASSWORD": password})
            yield port
