"""Runs as the archive gives them, without an MLflow store."""

from typing import Any

from pipelines.tracking.run_archive import PastRun


def past_run(run_id: str, protocol: dict[str, Any] | None = None, **params: str) -> PastRun:
    """A finished run of `digits` whose one metric is `fid`, measured under this protocol; None: no metric."""
    metrics = {} if protocol is None else {"fid": 1.0}
    return PastRun(run_id, f"run {run_id}", "digits", "", params, metrics, {}, {"fid": protocol or {}})
