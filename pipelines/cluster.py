"""Ray: starting a local cluster or joining one, and shipping this project's code to it, never its runs."""

import os
from pathlib import Path
from typing import Any

import ray

from pipelines.fingerprint import PACKAGES, ROOT


def connect(address: str | None, num_cpus: int, num_gpus: int | None) -> None:
    """Joins the cluster at `address`, or starts one on this machine, on 127.0.0.1 only."""
    # Two clusters on one host confuse Ray's own state clients; the dashboard's being off floods the logs.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    runtime_env = {
        "py_modules": [str(ROOT / package) for package in PACKAGES],
        "excludes": ["**/__pycache__"],
        "env_vars": {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"},
    }
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": runtime_env}
    if address:
        ray.init(address=address, **options)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            **options,
        )


def disconnect() -> None:
    ray.shutdown()


def log_folder() -> Path | None:
    """Where this cluster's own logs lie, when it runs on this machine."""
    node = ray._private.worker.global_worker.node
    return Path(node.get_logs_dir_path()) if node is not None else None


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster."""
    return dict(ray.cluster_resources())
