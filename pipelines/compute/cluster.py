"""Ray: starting a local cluster or joining one, and shipping this project's code to it, never its runs."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from compileall import compile_dir
from contextlib import contextmanager, suppress
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import ray
from ray._private import ray_constants

from pipelines.compute.worker_start import DRIVER_FOLDER, enter_cluster
from pipelines.fingerprint import PACKAGES, ROOT, other_files
from pipelines.interrupt import apart_from_signals
from pipelines.problems import BadInput, Problem, first_line


@contextmanager
def session(
    address: str | None,
    num_cpus: int,
    num_gpus: int | None,
    threads: int,
    *,
    also: Iterable[str] = (),
    code: Mapping[str, str] | None = None,
) -> Iterator[dict[str, float]]:
    """Joins the cluster at `address`, or starts one on this machine, on 127.0.0.1 only.

    threads: of torch in every process there; sums of float32 depend on it. also: packages to ship beside
    those that stages are made of. Processes there import a copy of the code, all of it below one folder as
    here, since fingerprints are taken there too. code: digests of files that must be as they were when the
    plan was made.
    Yields the cluster's resources; on leaving, a cluster started here ends. Raises BadInput when there is
    no cluster at the address, Ray does not start here, or the code has changed or cannot be read.
    """
    _prepare_environment(is_local=address is None)
    with tempfile.TemporaryDirectory(prefix="atjem-", ignore_cleanup_errors=True) as folder:
        _copy_code((*PACKAGES, *also), Path(folder), code or {})
        with _connected(address, num_cpus, num_gpus, _runtime_env(folder, threads)) as resources:
            yield resources


def _copy_code(packages: Iterable[str], folder: Path, code: Mapping[str, str]) -> None:
    """With bytecode that is valid wherever the copy goes, or each process there would compile it again."""
    what = "the project's code"
    try:
        for package in packages:
            for file in (ROOT / package).rglob("*"):
                if file.suffix in (".py", ".yaml") and not file.name.startswith(".") and file.is_file():
                    copy = folder / file.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)
        other = other_files(code, folder)
    except OSError as error:
        raise BadInput([Problem(what, first_line(error), "each file must be readable")]) from error
    if other:
        allowed = "it was changed as the run began: give the command again"
        raise BadInput([Problem(what, other[0], allowed)])
    compile_dir(folder, quiet=2, stripdir=str(folder), invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def _runtime_env(folder: str, threads: int) -> dict[str, Any]:
    """folder: with the code. Without one, Ray imports from the driver's folder first, whatever is there."""
    return {
        "working_dir": folder,
        "worker_process_setup_hook": f"{enter_cluster.__module__}.{enter_cluster.__name__}",
        "env_vars": {
            DRIVER_FOLDER: os.getcwd(),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONWARNINGS": "ignore",
        },
    }


@contextmanager
def _connected(
    address: str | None, num_cpus: int, num_gpus: int | None, runtime_env: dict[str, Any]
) -> Iterator[dict[str, float]]:
    options = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": runtime_env}
    if address:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            allowed = f"{reason}; start a cluster there, or set RAY_AUTH_MODE=token if it asks for a token"
            raise BadInput([Problem("--ray-address", address, allowed)]) from error
    else:
        _stay_on_loopback()
        try:
            with apart_from_signals():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=True,  # without it Ray Train floods the log and leaks placement groups
                    dashboard_host="127.0.0.1",
                    _node_ip_address="127.0.0.1",
                    **options,
                )
        except Exception as error:
            ray.shutdown()
            raise BadInput([Problem("Ray", first_line(error), "it did not start here: try again")]) from error
        _hide_token()
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()


def _stay_on_loopback() -> None:
    """Ray takes 127.0.0.1 for the machine's outward address and then listens on every interface.

    Only where it knows no clusters (its way on macOS and Windows) does it mean it, here and in its processes.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _hide_token() -> None:
    """Whoever reads the token may run code in this user's clusters, and Ray leaves it readable to all."""
    with suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def _prepare_environment(*, is_local: bool) -> None:
    """Of Ray: a local cluster's few workers are looked at often, so that short runs end when they end."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": "",  # of working_dir: they name __pycache__
        **({"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"} if is_local else {}),
    }.items():
        os.environ.setdefault(name, value)
