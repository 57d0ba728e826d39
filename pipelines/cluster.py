"""Ray: starting a local cluster or joining one, and shipping this project's code to it, never its runs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipelines.fingerprint import PACKAGES, ROOT
from pipelines.problems import BadInput, Problem, first_line


@contextmanager
def session(
    address: str | None, num_cpus: int, num_gpus: int | None, threads: int, also: Iterable[str] = ()
) -> Iterator[dict[str, float]]:
    """Joins the cluster at `address`, or starts one on this machine, on 127.0.0.1 only.

    threads: of torch in every process there; sums of float32 depend on it. also: packages to ship beside
    those that stages are made of.
    Yields the cluster's resources; on leaving, a cluster started here ends. Raises BadInput when there is
    no cluster at the address, or Ray does not start here.
    """
    _prepare_environment()
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {
            "py_modules": [str(ROOT / package) for package in (*PACKAGES, *also)],
            "excludes": ["**/__pycache__"],
            "env_vars": {
                "OMP_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
                "PYTHONWARNINGS": "ignore",
            },
        },
    }
    if address:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            allowed = f"{reason}; start a cluster there, or set RAY_AUTH_MODE=token if it asks for a token"
            raise BadInput([Problem("--ray-address", address, allowed)]) from error
    else:
        try:
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
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()


def _prepare_environment() -> None:
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # seconds between the controller's looks at its workers
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
